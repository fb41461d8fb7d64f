"""The training loop of one stage: AdamW with warm-up and a cosine schedule, one epoch at a time.

Everything random in an epoch is seeded by its number, and the learning rate is a function of the step. So
what a run can go on from is the weights and the optimizer's moments after an epoch; there is no state of
generators or schedulers to carry along.

The student trains in train mode, BatchNorm layers included, as is usual in fine-tuning: they normalise by the
batch and their running statistics move to those of the training images. Deployed ONNX files seldom have any
left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recipes.faces import input_preset
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.progress import Progress
from recipes.tsmr.views import Views, epoch_order
from reparam_kit import ReparamError

_REPORT_EVERY = 16  # steps; reading the loss waits for the device


class Trainer:
    """Trains ``student`` and ``stage`` together, in place.

    Args:
        student: the net, on the device that is trained on. Its output, or the first of several, is the
            embedding, flattened.
        stage: module of the loss terms (see ``recipes.tsmr.losses.Distillation``), on the same device.
        views: the training images.
        targets: the teacher's embeddings, float16 ``[N, V, D]``.
        config: the choices of the run.
    """

    def __init__(
        self,
        student: nn.Module,
        stage: nn.Module,
        views: Views,
        targets: npt.NDArray[np.float16],
        config: TSMRConfig,
    ) -> None:
        self.student = student
        self.stage = stage
        self.views = views
        self.targets = targets
        self.config = config
        self.parameters = [p for module in (student, stage) for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(decay_groups(self.parameters, config.weight_decay), fused=True)

    def run_epoch(self, epoch: int, progress: Progress) -> tuple[dict[str, float], float]:
        """Train one epoch, the first being 1. Returns the mean of each loss term, and images trained on a
        second.

        Raises:
            ReparamError: the gradient is no longer finite.
        """
        config = self.config
        seed = (config.seed * 1_000_003 + epoch) % 2**63
        torch.manual_seed(seed)
        self.student.train()
        device = self.parameters[0].device
        preset = input_preset(config.student_input)
        order = epoch_order(len(self.views), config.flip, seed)
        steps = len(self.views) // config.batch_size
        batches = self.views.batches(order, config.batch_size, config.workers, drop_last=True)
        sums: dict[str, Tensor] = {}
        with progress.task(f"epoch {epoch}/{config.epochs}", steps * config.batch_size) as task:
            for step, (images, index, mirrored) in enumerate(batches, start=1):
                rate = config.lr * schedule(steps * (epoch - 1) + step, steps * config.epochs, config.warmup)
                targets = self.targets[index.numpy(), mirrored.numpy().astype(int)].astype(np.float32)
                # About 1.5 times as fast as channels first, where most convolutions are 1x1 and depthwise.
                inputs = preset(images.to(device)).contiguous(memory_format=torch.channels_last)
                output = self.student(inputs)
                embeddings = (output[0] if isinstance(output, tuple | list) else output).flatten(1)
                terms = self.stage(embeddings, torch.from_numpy(targets).to(device))
                norm = self._step(torch.stack([*terms.values()]).sum(), rate)
                for name, term in terms.items():
                    sums[name] = sums.get(name, 0) + term.detach()
                note = ""
                if step % _REPORT_EVERY == 0 or step == steps:
                    if not norm.isfinite():
                        raise ReparamError(
                            f"the gradient is no longer finite in epoch {epoch} at step {step} of {steps}: "
                            f"lower lr={config.lr:g}, or check student_input={config.student_input!r}"
                        )
                    note = ", ".join(f"{name} {float(total) / step:.4f}" for name, total in sums.items())
                    note += f", lr {rate:.1e}"
                task.advance(len(images), note)
        return {name: float(total) / steps for name, total in sums.items()}, task.rate

    def _step(self, loss: Tensor, rate: float) -> Tensor:
        """One step at learning rate ``rate``; returns the norm that the gradient had."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        return {part: getattr(self, part).state_dict() for part in ("student", "stage", "optimizer")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        for part, values in state.items():
            getattr(self, part).load_state_dict(values)


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
