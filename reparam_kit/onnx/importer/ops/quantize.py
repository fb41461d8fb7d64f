"""Quantisation as fake quantisation: floating point on the levels of the integers, with a straight-through gradient.

A ``QuantizeLinear`` gives the levels as floating-point numbers, which have a gradient and stand for the integers (see
:mod:`..levels`); a ``DequantizeLinear`` reads them. Integers that the file stores, and only dequantises, are
weights like others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, fx

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.fake import LEVELS, fake_quantised
from reparam_kit.onnx.importer.levels import Scaled, along, at_level, divisor, reads
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rounded import grid_of
from reparam_kit.onnx.importer.rules import beside
from reparam_kit.onnx.importer.values import Constant, Value, dtype_of, ends, held
from reparam_kit.onnx.provenance import FakeGrid, Grid

_QUANTISED = (
    "quantised"  # of a node of levels with one scale: the number, scale, zero, and type of the integers
)
_MICROSOFT = "com.microsoft"  # the same operators, before ONNX's had all types


@operator("QuantizeLinear", since=10)
@operator("QuantizeLinear", domain=_MICROSOFT)
def quantize(op: Op) -> Value:
    """Take x, scale, zero point. A weight stays one: it is quantised in every pass, as in quantisation-aware
    training.
    """
    op.attr("saturate")  # about 8-bit floats
    x, scale, zero, division = op[0], op[1], op.get(2), op.attr("precision")
    dtype = op.dtype(2) if zero is not None else dtype_of(op.attr("output_dtype") or TensorProto.UINT8)
    division = held(dtype_of(division) if division else op.dtype(1))
    if dtype in (torch.int32, torch.int64):
        raise UnsupportedError("the type of its zero point is not known, and so not the last of its integers")
    layout = op.attr("axis"), op.attr("block_size")
    if (
        not isinstance(x, Constant)
        or x.source is None
        or x.source.grid is not None
        or not _known(scale, zero)
    ):
        given = op.parameter(0)
        made = op.levels(levels, given, scale, zero, dtype, division, *layout, dtype=dtype)
        one = isinstance(scale, Constant) and scale.tensor.numel() == 1 and scale.tensor.dtype == division
        if isinstance(made, fx.Node) and one and _known(scale, zero):
            made.meta[_QUANTISED] = (given, scale, zero, dtype)
        return made
    integers = op.levels(levels, x.tensor, scale, zero, dtype, division, *layout, dtype=dtype)
    assert isinstance(integers, Constant)
    grid = FakeGrid(*_settings(x, scale, zero, *layout), ends(dtype), str(division).removeprefix("torch."))
    return replace(integers, numbers=x.then(grid))


@operator("DequantizeLinear", since=10)
@operator("DequantizeLinear", domain=_MICROSOFT)
def dequantize(op: Op) -> Value:
    """Take x, scale, zero point. Integers that the file stores are a weight, and those of a weight are it again."""
    x, scale, zero, dtype = op[0], op[1], op.get(2), op.attr("output_dtype")
    layout = op.attr("axis"), op.attr("block_size")
    weight = None if dtype else as_weight(op, x, op.dtype(0), scale, zero, *layout)
    if weight is not None:
        return weight
    if isinstance(x, fx.Node) and _QUANTISED in x.meta and _known(scale, zero) and not dtype:
        given, *settings, integers = x.meta[_QUANTISED]
        if all(map(_same, settings, (scale, zero))):
            made = op.call(fake_quantised, given, settings[0], shift_of(settings[1]), integers)
            if isinstance(made, fx.Node):
                made.meta[LEVELS] = (
                    x.meta.get("value"),
                    *(one and one.tensor.reshape(()) for one in settings),
                )
            return made
    return op.call(dequantized, x, scale, zero, held(dtype_of(dtype) if dtype else op.dtype(1)), *layout)


def shift_of(zero: Value | None) -> Value | None:
    """Return a zero point; ``None`` where it shifts nothing."""
    return None if isinstance(zero, Constant) and not zero.tensor.any() else zero


def as_weight(
    op: Op,
    x: Value,
    dtype: torch.dtype,
    scale: Value,
    zero: Value | None,
    axis: int | None,
    block: int | None,
) -> Constant | None:
    """Return what integers of ``dtype`` stand for; ``None`` where the file stores no weight that they are."""
    if not isinstance(x, Constant) or not _known(scale, zero):
        return None
    settings = _settings(x, scale, zero, axis, block)
    if x.numbers is not None and _is_undone(x.numbers, *settings):
        return x.numbers if x.between is None else x.numbers.within(x.between)
    return None if x.source is None else op.made(x.then(Grid(*settings, x.between or ends(dtype))))


def _same(a: Value | None, b: Value | None) -> bool:
    return a is b or (isinstance(a, Constant) and isinstance(b, Constant) and a.tensor.equal(b.tensor))


def _known(scale: Value, zero: Value | None) -> bool:
    return isinstance(scale, Constant) and not isinstance(zero, fx.Node)


def _settings(
    x: Constant, scale: Value, zero: Value | None, axis: int | None, block: int | None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a scale and zero point that are known such that they broadcast to ``x``."""
    assert isinstance(scale, Constant)
    shift = zero.tensor if isinstance(zero, Constant) else torch.zeros((), dtype=torch.int8)
    return along(scale.tensor, x.tensor, axis, block).numpy(), along(shift, x.tensor, axis, block).numpy()


def _is_undone(weight: Constant, scale: NDArray[Any], zero: NDArray[Any]) -> bool:
    """Return whether these settings dequantise what its ``QuantizeLinear`` makes of a weight."""
    assert weight.source is not None
    shape = tuple(weight.tensor.shape)
    old = (setting.expand(shape).numpy() for setting in grid_of(weight.source, shape)[:2])
    same = (np.array_equal(a, np.broadcast_to(b, shape)) for a, b in zip(old, (scale, zero), strict=True))
    return all(same) and weight.tensor.numpy().dtype == scale.dtype


def levels(
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    dtype: torch.dtype,
    division: torch.dtype,
    axis: int | None,
    block: int | None,
) -> Tensor:
    """Return the nearest of the integers of ``dtype`` for each entry of ``x``, in ``division``."""
    at = Scaled(x.to(division), torch.div, divisor(along(scale, x, axis, block).to(division)))
    return at_level(at, None if zero is None else along(zero, x, axis, block), dtype)


def dequantized(
    x: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype, axis: int | None, block: int | None
) -> Tensor:
    """Return ``(x - zero) * scale`` in ``dtype``."""
    scale = along(scale, x, axis, block)
    level = (
        x.to(scale.dtype) if zero is None else x.to(scale.dtype) - along(zero, x, axis, block).to(scale.dtype)
    )
    return (level * scale).to(dtype)


reads(dequantized)
rule(beside(5), levels)
rule(beside(4), dequantized)
