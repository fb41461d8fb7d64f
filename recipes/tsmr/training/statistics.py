"""What a BatchNorm normalises by when several processes share a batch: the statistics of all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from recipes.tsmr.distributed import Processes


class SharedStatistics(TorchFunctionMode):
    """In this block each batch norm that trains takes mean and variance of the batch of all ``processes``.

    On any device, whoever calls it: ``torch.nn.SyncBatchNorm`` runs on CUDA alone, and has to be put in the place of
    each layer. Every process has to come by the same batch norms in the same order.
    """

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self._processes = processes

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """As ``F.batch_norm``."""
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        rows = input.float()
        others = [0, *range(2, rows.dim())]
        mean = self._processes.mean(rows.mean(others, keepdim=True))
        centred = rows - mean
        variance = self._processes.mean(centred.square().mean(others, keepdim=True))
        if running_mean is not None and running_var is not None:
            count = self._processes.count * rows.numel() / rows.shape[1]
            with torch.no_grad():
                running_mean.lerp_(mean.flatten(), momentum)
                running_var.lerp_(variance.flatten() * count / (count - 1), momentum)
        scale = torch.rsqrt(variance + eps)
        if weight is not None:
            scale = scale * weight.view_as(scale)
        normalised = centred * scale
        return (normalised if bias is None else normalised + bias.view_as(mean)).to(input.dtype)
