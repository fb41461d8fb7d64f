"""Constants, and what only passes a value on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, fx, nn

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.example import example
from reparam_kit.onnx.importer.levels import as_numbers, integers, recast, straight_through
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rounded import is_fake
from reparam_kit.onnx.importer.rules import elementwise
from reparam_kit.onnx.importer.values import (
    DTYPES,
    Constant,
    Value,
    as_dtype,
    dtype_of,
    ends,
    file_dtype,
    typed,
    widened,
)
from reparam_kit.onnx.provenance import Grid
from reparam_kit.onnx.weights import DEQUANTISED

_NUMBERS = {
    "value_float": torch.float32,
    "value_floats": torch.float32,
    "value_int": torch.int64,
    "value_ints": torch.int64,
}
_NARROW = (torch.int8, torch.uint8, torch.int16, torch.uint16)  # levels, not places or sizes


@operator("Constant")
def constant(op: Op) -> Value:
    """Import a constant: ``value`` is a tensor; the other forms are numbers written out, which are never weights."""
    if (tensor := op.attr("value")) is not None:
        return op.stored(tensor)
    for form, dtype in _NUMBERS.items():
        if (numbers := op.attr(form)) is not None:
            return op.call(as_tensor, numbers, dtype)
    raise UnsupportedError("a constant that is sparse or text is not supported")


@operator("ConstantOfShape")
def constant_of_shape(op: Op) -> Value:
    """Return ``value`` (float 0 by default) everywhere."""
    value = op.attr("value")
    value = torch.zeros(1) if value is None else value
    return op.call(full, op.numbers(0), value.item(), value.dtype)


@operator("Identity")
def identity(op: Op) -> Value:
    """Return the value itself, so that a weight keeps its place in the file."""
    return op[0]


@operator("Cast")
def cast(op: Op) -> Value:
    """Cast; ``saturate`` and ``round_mode`` are about 8-bit floats, to which there is no cast here."""
    op.attr("saturate")
    op.attr("round_mode")
    x, dtype = op[0], dtype_of(op.attr("to"))
    if isinstance(x, Constant) and dtype.is_floating_point and _is_levels(x, op.dtype(0)):
        return op.made(
            x.then(Grid(np.ones((), np.float32), np.zeros((), np.int8), x.between or ends(op.dtype(0))))
        )
    return _cast(op, dtype)


@operator("CastLike")
def cast_like(op: Op) -> Value:
    """Take x, and a value of the wanted type."""
    op.attr("saturate")
    op.attr("round_mode")
    return _cast(op, op.dtype(1))


def _is_levels(x: Constant, dtype: torch.dtype) -> bool:
    """Return whether integers that become numbers are those of a weight, as :func:`weights` of a file has it."""
    stored = x.source is not None and x.source.grid is None and len(x.source.shape) > 1
    return stored and dtype in {DTYPES[number] for number in DEQUANTISED if number in DTYPES}


def _cast(op: Op, dtype: torch.dtype) -> Value:
    """Integers with a gradient keep it, also as floating-point numbers; a weight stays one."""
    x, old = op[0], integers(op[0])
    known = example(x) if isinstance(x, fx.Node) and old is None else None
    if (isinstance(known, Tensor) and known.dtype == dtype) or (old is None and file_dtype(x) == dtype):
        return x
    floating = isinstance(x, Constant) and x.tensor.is_floating_point() and dtype.is_floating_point
    if isinstance(x, Constant) and floating and not is_fake(x):  # rounded in the type that the file has it in
        return op.made(x.cast(dtype))
    if isinstance(known, Tensor) and known.is_floating_point() and dtype in _NARROW:
        return op.levels(as_levels, x, dtype, dtype=dtype)
    if old is None or dtype is torch.bool:
        return typed(op.call(as_dtype, op[0], dtype), dtype)
    if dtype.is_floating_point:
        return op.call(as_dtype, op.call(as_numbers, op[0]), dtype)
    return op.levels(recast, op[0], old, dtype, dtype=dtype)


@operator("Dropout", since=7)
def dropout(op: Op) -> Value:
    """Return an ``nn.Dropout``: nothing in eval mode. ``seed`` would make runs of a training file repeat."""
    op.attr("seed")
    if op.number("training_mode", 2):
        raise UnsupportedError("a dropout that is on in inference is not supported")
    ratio = op.number("ratio", 1)
    if isinstance(ratio, fx.Node):
        raise UnsupportedError("a ratio that is computed at run time is not supported")
    return op.layer(nn.Dropout(0.5 if ratio is None else ratio), op[0])


def as_levels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the integers of ``dtype`` that numbers are cast to, as levels."""
    return straight_through(as_dtype(x.detach(), dtype).to(x.dtype), None, x)


def as_tensor(numbers: float | tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """Return a tensor of these numbers."""
    return torch.tensor(numbers, dtype=dtype)


def full(sizes: list[int], value: float, dtype: torch.dtype) -> Tensor:
    """Return ``value`` in a tensor of these sizes."""
    return torch.full(tuple(sizes), value, dtype=dtype)


rule(elementwise, as_dtype, as_levels, widened)
