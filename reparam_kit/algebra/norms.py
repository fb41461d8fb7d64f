"""The norms: what a branch passes before it is summed. A new norm is one class here, found by its name."""

from __future__ import annotations

from math import prod
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reparam_kit.algebra.branch import Branch, Chain
from reparam_kit.algebra.factors import Fixed
from reparam_kit.algebra.stock import not_affine

_BATCH_NORM = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Scaled(Branch, norm="scale"):
    """Ends in a factor for each output channel, in units of the deployed kernel.

    At ``scale = 1`` each channel's kernel has the norm of the deployed one, on average over random starts.
    """

    measured: ClassVar[bool] = True

    def __init__(self, chain: Chain, deployed: Tensor) -> None:
        super().__init__(chain, deployed)
        self.scale = nn.Parameter(deployed.new_zeros(deployed.shape[0]))
        norms = torch.linalg.vector_norm(deployed.flatten(1), dim=1)
        self.rescale(norms / prod(factor.gain(shape) for factor, shape in chain))

    def behind(self, i: int, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None] | None:
        return (self.scale.to(dtype), None) if i == self._last else None


class Normalised(Branch, norm="batch"):
    """Has a BatchNorm behind every factor, as in the papers."""

    runs: ClassVar[bool] = True
    shifts: ClassVar[bool] = True

    def __init__(self, chain: Chain, deployed: Tensor) -> None:
        super().__init__(chain, deployed)
        layer = _BATCH_NORM[deployed.dim() - 2]
        self.norms = nn.ModuleList(layer(shape.out_channels) for _, shape in chain).to(deployed)
        nn.init.zeros_(cast("_BatchNorm", self.norms[-1]).weight)

    def behind(self, i: int, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
        return affine(cast("_BatchNorm", self.norms[i]), dtype)

    def normalised(self, i: int, x: Tensor) -> Tensor:
        out: Tensor = self.norms[i](x)
        return out

    def changed(self) -> str | None:
        return next(filter(None, map(not_affine, self.norms)), super().changed())


class Bare(Branch, norm="none"):
    """Adds nothing: the last factor that has a parameter starts at zero."""

    def __init__(self, chain: Chain, deployed: Tensor) -> None:
        super().__init__(chain, deployed)
        nn.init.zeros_(list(self.parameters())[-1])

    @staticmethod
    def trains(chain: Chain) -> bool:
        return not all(isinstance(link.factor, Fixed) for link in chain)


def affine(norm: _BatchNorm, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Return ``(factor, shift)``, each ``[C]``, of a BatchNorm in eval mode: ``y -> factor * y + shift``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    shift = -norm.running_mean.to(dtype) * factor
    if norm.affine:
        factor, shift = factor * norm.weight.to(dtype), shift * norm.weight.to(dtype) + norm.bias.to(dtype)
    return factor, shift
