"""Arithmetic of integers as onnxruntime does it: sums of products of levels, and their way to the levels of a result.

The sums are whole numbers. In eval mode they are exact, as a register of 32 bits holds them, and what is made of them
is rounded where onnxruntime rounds it. In train mode they are sums in single precision, which differ by less than a
rounding of that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparam_kit.onnx.importer.batch import Function, Images, Planned, Rule, rule
from reparam_kit.onnx.importer.levels import Scaled, along, at_level, divisor, reads
from reparam_kit.onnx.importer.rounded import Rounded, levels_on_grid
from reparam_kit.onnx.importer.rules import beside, elementwise, first, product_of_two

_LARGEST = 255  # distance of a level of 8 bits from its zero
_EXACT = 2**24  # up to here, every whole number is one of single precision
_CONV = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


class Accumulating(Rounded):
    """A layer of integers: it takes levels less their zero, and gives the sums of their products with its own levels.

    Its parameters are the numbers that its levels stand for, and are rounded to them in each forward.
    """

    def forward(self, x: Tensor) -> Any:
        """Return whole numbers, in the dtype of ``x`` or, where that does not hold them, in double precision.

        Where the scale of the weight has left that of the file, by which others go on with them, they are multiplied by
        how far.
        """
        scales = self.scales()
        levels = self.on_grids(levels_on_grid, scales)
        dtype = x.dtype if self.training or _fits(levels, x) else torch.float64
        levels = {name: level.to(dtype) for name, level in levels.items()}
        device = "cpu" if x.is_meta else x.device.type
        with torch.autocast(device, enabled=False), self.instead(levels):
            sums = super(Rounded, self).forward(x.to(dtype))
        return sums if self.moves is None else sums * self._units(scales["weight"]).to(dtype)

    def _units(self, scale: Tensor) -> Tensor:
        """Return what a scale is in that of the file, for each output."""
        return (scale / self.get_buffer("weight_scale"))[:, 0]


class AccumulatingConv1d(Accumulating, nn.Conv1d):
    """Of integers."""


class AccumulatingConv2d(Accumulating, nn.Conv2d):
    """Of integers."""


class AccumulatingConv3d(Accumulating, nn.Conv3d):
    """Of integers."""


class AccumulatingLinear(Accumulating, nn.Linear):
    """Of integers."""


def _fits(levels: dict[str, Tensor], x: Tensor) -> bool:
    """Return whether no part of a sum can be too large for the dtype of ``x``."""
    if x.is_meta or x.dtype is torch.float64:
        return True
    most = levels["weight"].detach().abs().flatten(1).sum(1) * _LARGEST
    if "bias" in levels:
        most = most + levels["bias"].detach().abs()
    return bool(most.max() <= _EXACT)


def centred(x: Tensor, zero: Tensor | None, axis: int | None) -> Tensor:
    """Return integers or levels less their zero, which may be another for each entry of ``axis``."""
    x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
    return x if zero is None else x - _broadcastable(zero, x, axis).to(x.dtype)


def _broadcastable(setting: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """Return a setting such that it broadcasts to ``x``: it does, or has one entry for each of ``axis``."""
    return setting if axis is None and setting.numel() > 1 else along(setting, x, axis, None)


def requantised(
    sums: Tensor, factor: Tensor, zero: Tensor | None, dtype: torch.dtype, axis: int | None
) -> Tensor:
    """Return ``round(sums * factor) + zero`` as levels of ``dtype``. ``factor`` may be another for each entry of
    ``axis``.
    """
    at = Scaled(sums.to(factor.dtype), torch.mul, _broadcastable(factor, sums, axis))
    return at_level(at, None if zero is None else zero.reshape(()), dtype)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a / b``, finite also where ``b`` is the scale of a result that has one level."""
    return (a / divisor(b)).nan_to_num()


def rescaled(sums: Tensor, factor: Tensor, axis: int | None) -> Tensor:
    """Return ``sums * factor``: the numbers that they stand for."""
    return sums.to(factor.dtype) * _broadcastable(factor, sums, axis)


def conv_sums(x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
    """Return the convolution of whole numbers with others; ``settings`` are those of ``F.conv1d``."""
    added = None if bias is None else bias.double()
    sums: Tensor = _CONV[x.dim()](x.double(), weight.double(), added, *settings)
    return sums


def matmul_sums(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of two matrices of whole numbers."""
    return a.double() @ b.double()


def _broadcast(at: int) -> Rule:
    """Return the rule for settings that broadcast, or go along the axis that is argument ``at``."""

    def plan(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
        kind = elementwise if args[at] is None else beside(at)
        return kind(images, function, args, result)

    return plan


reads(centred, requantised, rescaled, conv_sums, matmul_sums)
rule(_broadcast(2), centred, rescaled)
rule(_broadcast(4), requantised)
rule(elementwise, ratio)
rule(first, conv_sums)
rule(product_of_two, matmul_sums)
