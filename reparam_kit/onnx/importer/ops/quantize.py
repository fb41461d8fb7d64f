"""Quantisation as fake quantisation: floating point on the levels of the integers, with a straight-through gradient.

A ``QuantizeLinear`` gives the levels as floating-point numbers, which have a gradient and stand for the integers (see
:mod:`..levels`); a ``DequantizeLinear`` reads them. Integers that the file stores, and only dequantises, are
weights like others.
"""

from __future__ import annotations

import torch
from onnx import TensorProto
from torch import Tensor, fx

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.levels import reads
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import beside
from reparam_kit.onnx.importer.values import Constant, Value, dtype_of, ends, held
from reparam_kit.onnx.provenance import Grid

_MICROSOFT = "com.microsoft"  # the same operators, before ONNX's had all types


@operator("QuantizeLinear", since=10)
@operator("QuantizeLinear", domain=_MICROSOFT)
def quantize(op: Op) -> Value:
    """Take x, scale, zero point. A weight stays one: it is quantised in every pass, as in quantisation-aware
    training.
    """
    op.attr("saturate")  # about 8-bit floats
    scale, zero, division = op[1], op.get(2), op.attr("precision")
    dtype = op.dtype(2) if zero is not None else dtype_of(op.attr("output_dtype") or TensorProto.UINT8)
    division = held(dtype_of(division) if division else op.dtype(1))
    if dtype in (torch.int32, torch.int64):
        raise UnsupportedError("the type of its zero point is not known, and so not the last of its integers")
    layout = op.attr("axis"), op.attr("block_size")
    return op.levels(levels, op.parameter(0), scale, zero, dtype, division, *layout, dtype=dtype)


@operator("DequantizeLinear", since=10)
@operator("DequantizeLinear", domain=_MICROSOFT)
def dequantize(op: Op) -> Value:
    """Take x, scale, zero point."""
    x, scale, zero, dtype = op[0], op[1], op.get(2), op.attr("output_dtype")
    layout = op.attr("axis"), op.attr("block_size")
    if (
        isinstance(x, Constant)
        and x.source is not None
        and isinstance(scale, Constant)
        and not isinstance(zero, fx.Node)
        and not dtype
    ):
        none = torch.zeros((), dtype=x.tensor.dtype)
        steps, shift = (
            along(setting, x.tensor, *layout).numpy()
            for setting in (scale.tensor, none if zero is None else zero.tensor)
        )
        return x.then(Grid(steps, shift, ends(op.dtype(0))))
    return op.call(dequantized, x, scale, zero, held(dtype_of(dtype) if dtype else op.dtype(1)), *layout)


def levels(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    dtype: torch.dtype,
    division: torch.dtype,
    axis: int | None,
    block: int | None,
) -> Tensor:
    """Return the nearest of the integers of ``dtype`` for each entry of ``x``, in ``division``; ties go to the even
    one.

    The gradient is that of ``x / scale``, and zero where a level beyond the first or the last is nearest.
    """
    at = x.to(division) / along(scale, x, axis, block).to(division)
    shift = 0 if zero is None else along(zero, x, axis, block).to(division)
    nearest = (torch.round(at) + shift).detach()
    level = nearest.clamp(*ends(dtype))
    inside = torch.where(level == nearest, at, level)
    return level + (inside - inside.detach())  # what is added is zero, and has the gradient


def dequantized(
    x: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype, axis: int | None, block: int | None
) -> Tensor:
    """Return ``(x - zero) * scale`` in ``dtype``."""
    scale = along(scale, x, axis, block)
    level = (
        x.to(scale.dtype) if zero is None else x.to(scale.dtype) - along(zero, x, axis, block).to(scale.dtype)
    )
    return (level * scale).to(dtype)


def along(setting: Tensor, x: Tensor, axis: int | None, block: int | None) -> Tensor:
    """Return a scale or zero point such that it broadcasts to ``x``.

    It is one number, or one for each entry of ``axis``, or one for each ``block`` of entries there.
    """
    if setting.numel() == 1:
        return setting.reshape(())
    axis = 1 if axis is None else axis % x.dim()
    if block:
        return setting.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return setting.reshape([-1 if dim == axis else 1 for dim in range(x.dim())])


reads(dequantized)
rule(beside(5), levels)
rule(beside(4), dequantized)
