"""What the optimizer is told: which parameters decay, the rate of each step, and the running average."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Optimizer groups in which only kernels decay.

    A parameter with one value per channel (branch scale, bias, norm, PReLU slope) has none: to pull a
    branch's scale to zero is to switch the branch off.
    """
    kernels: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in parameters:
        is_vector = parameter.numel() == max(parameter.shape, default=1)
        (vectors if is_vector else kernels).append(parameter)
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor on the peak rate at ``step`` of ``1 .. steps``: linear up over ``warmup * steps``, then a half
    cosine to 0.

    Cosine annealing without restarts: Loshchilov and Hutter, SGDR, ICLR 2017, eq. 5.
    """
    rise = warmup * steps
    if step < rise:
        return step / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps + 1 - rise)))


class RunningAverage(AveragedModel):
    """A copy of ``student`` that follows it by ``update_parameters``, with its buffers as they are.

    The decay starts small and reaches ``decay`` as steps are taken, so that a short run is not an average with its
    start. All tensors are updated in one call, where torch's own takes several for each.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        super().__init__(student)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        count = int(self.n_averaged)
        share = 1 - min(self._decay, (1 + count) / (10 + count)) if count else 1.0
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), share)
        if buffers := list(self.module.buffers()):
            torch._foreach_copy_(buffers, list(model.buffers()))
        self.n_averaged += 1
