"""Convolutions and matrix products of integers.

Their weights are the numbers that the stored integers stand for, on the grid that scale and zero point span, as behind
a ``DequantizeLinear``; a layer computes with the levels themselves (see :mod:`..accumulate`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.accumulate import (
    AccumulatingConv1d,
    AccumulatingConv2d,
    AccumulatingConv3d,
    AccumulatingLinear,
    centred,
    conv_sums,
    matmul_sums,
    ratio,
    requantised,
    rescaled,
)
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.dynamic import dynamic_levels, dynamic_settings
from reparam_kit.onnx.importer.levels import reads, stand_for
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.ops.conv import Kinds, convolved
from reparam_kit.onnx.importer.ops.quantize import as_weight, shift_of
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import first
from reparam_kit.onnx.importer.values import Constant, Value

MICROSOFT = "com.microsoft"
_MADE_OF = (
    "made of"  # of a node of levels: the numbers that are quantised as they come, their scale and zero point
)

_CONV: Kinds = {
    1: (AccumulatingConv1d, conv_sums),
    2: (AccumulatingConv2d, conv_sums),
    3: (AccumulatingConv3d, conv_sums),
}


@operator("QLinearConv", since=10)
@operator("QLinearConv", domain=MICROSOFT)
def q_linear_conv(op: Op) -> Value:
    """Take x, scale, zero, weight, scale, zero, the result's scale, zero, and a bias in the scale of the sums."""
    scale = op.call(torch.mul, op[1], op[4])
    x, back = channels_second(op, _centred(op, 0, 2))
    sums = _conv(op, x, (3, 5, op[4]), (8, scale))
    return back(_requantised(op, sums, op.call(ratio, scale, op[6]), 7, axis=1))


@operator("QLinearMatMul", since=10)
def q_linear_matmul(op: Op) -> Value:
    """Take a, scale, zero, b, scale, zero, the result's scale and zero."""
    scale = op.call(torch.mul, op[1], op[4])
    sums = _matmul(op, _centred(op, 0, 2), (3, 5, op[4]))
    return _requantised(op, sums, op.call(ratio, scale, op[6]), 7)


@operator("QGemm", domain=MICROSOFT)
def q_gemm(op: Op) -> Value:
    """Take a, scale, zero, b, scale, zero, a sum in the scale of the product, the result's scale and zero: floating
    point without.
    """
    alpha = op.attr("alpha")
    scale = op.call(torch.mul, op[1], op[4])
    scale = scale if alpha in (None, 1) else op.call(torch.mul, scale, alpha)
    a = _centred(op, 0, 2)
    a = op.call(torch.t, a) if op.flag("transA") else a
    sums = _matmul(op, a, (3, 5, op[4]), (6, scale), flip=op.flag("transB"))
    if op.get(7) is None:
        return op.call(rescaled, sums, scale, None)
    return _requantised(op, sums, op.call(ratio, scale, op[7]), 8)


@operator("ConvInteger", since=10)
def conv_integer(op: Op) -> Value:
    """Take x, weight and the zero points of both."""
    return _whole(_conv(op, _centred(op, 0, 2), (1, 3, _scale_behind(op)), None))


@operator("MatMulInteger", since=10)
def matmul_integer(op: Op) -> Value:
    """Take a, b and the zero points of both."""
    return _whole(_matmul(op, _centred(op, 0, 2), (1, 3, _scale_behind(op))))


@operator("MatMulIntegerToFloat", domain=MICROSOFT)
def matmul_integer_to_float(op: Op) -> Value:
    """Take a, b, the scales of both, their zero points, and a bias in floating point."""
    sums = _matmul(op, _centred(op, 0, 4), (1, 5, op[3]))
    return _with_bias(op, op.call(rescaled, sums, op.call(torch.mul, op[2], op[3]), None), 6)


@operator("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_quantize_matmul(op: Op) -> Value:
    """Take a in floating point, b, its scale and zero point, and a bias in floating point."""
    a, scale, zero = _dynamically(op)
    sums = _matmul(op, _less(op, a, zero), (1, 3, op[2]))
    return _with_bias(op, op.call(rescaled, sums, op.call(torch.mul, scale, op[2]), None), 4)


@operator("DynamicQuantizeLinear", since=11)
def dynamic_quantize(op: Op) -> tuple[Value, Value, Value]:
    """Take x in floating point, and give its levels, their scale and zero point, by the least and greatest of all."""
    return _dynamically(op)


def _dynamically(op: Op) -> tuple[Value, Value, Value]:
    scale, zero = op.call_many(dynamic_settings, op[0], tuple(range(op.rank(0))), count=2)
    made = op.levels(dynamic_levels, op[0], scale, zero, dtype=torch.uint8)
    if isinstance(made, fx.Node):
        made.meta[_MADE_OF] = op[0], scale, zero
    return made, scale, zero


def channels_second(op: Op, x: Value) -> tuple[Value, Callable[[Value], Value]]:
    """Return ``x`` with its channels second, and what puts those of the result where ``x`` had them.

    onnxruntime writes ``channels_last`` where it has optimised a graph for a processor.
    """
    if not op.flag("channels_last"):
        return x, lambda y: y
    rank = op.rank(0)
    turned = op.call(torch.permute, x, (0, rank - 1, *range(1, rank - 1)))
    return turned, lambda y: op.call(torch.permute, y, (0, *range(2, rank), 1))


def _centred(op: Op, index: int, zero: int) -> Value:
    if op.get(zero) is not None and len(op.shape(zero) or ()) and op.shape(zero) != (1,):
        raise UnsupportedError("a zero point for each row of the input is not supported")
    return _less(op, op[index], shift_of(op.get(zero)))


def _less(op: Op, x: Value, zero: Value | None) -> Value:
    """Return levels less their zero: at once where they are those of numbers that are quantised as they come."""
    made_of = x.meta.get(_MADE_OF) if isinstance(x, fx.Node) else None
    if made_of is not None and made_of[2] is zero:
        return op.call(dynamic_levels, *made_of, True)
    return op.call(centred, x, zero, None)


def _conv(op: Op, x: Value, weight: tuple[int, int, Value | None], bias: tuple[int, Value] | None) -> Value:
    at, zero, scale = weight
    weights = _weights(op, x, _stored(op, at, zero, scale, 0), bias)
    if weights is not None:
        return _with_computed(op, convolved(op, x, op.shape(at), weights, (), _CONV), bias, op.rank(at) - 2)
    given = op.call(centred, op[at], op.get(zero), 0), None if bias is None else op.get(bias[0])
    return convolved(op, x, op.shape(at), None, given, _CONV)


def _matmul(
    op: Op,
    a: Value,
    weight: tuple[int, int, Value | None],
    bias: tuple[int, Value] | None = None,
    flip: bool = False,
) -> Value:
    at, zero, scale = weight
    axis, is_matrix = -2 if flip else -1, len(op.shape(at) or ()) == 2
    stored = _stored(op, at, zero, scale, axis) if is_matrix else None
    matrix = stored if stored is None or flip else stored.permuted((1, 0))
    weights = _weights(op, a, matrix, bias)
    if weights is not None:
        out, features = weights["weight"].tensor.shape
        if "bias" not in weights or tuple(weights["bias"].tensor.shape) in ((out,), (1, out)):
            layer = AccumulatingLinear(features, out, "bias" in weights, device="meta")
            return _with_computed(op, op.layer(layer, a, **weights), bias, 0)
    b = op.call(centred, op[at], op.get(zero), axis)
    sums = op.call(matmul_sums, a, op.call(torch.t, b) if flip else b)
    added = None if bias is None else op.get(bias[0])
    return sums if added is None else op.call(torch.add, sums, added)


def _weights(
    op: Op, x: Value, weight: Constant | None, bias: tuple[int, Value] | None
) -> dict[str, Constant] | None:
    """Return the weights of a layer, where they are stored and what it is given is not; no bias that is computed."""
    weights = {"weight": weight}
    if bias is not None and isinstance(op.get(bias[0]), Constant):
        weights["bias"] = _stored(op, bias[0], None, bias[1], -1)
    known = {name: value for name, value in weights.items() if value is not None}
    return known if isinstance(x, fx.Node) and len(known) == len(weights) else None


def _with_computed(op: Op, sums: Value, bias: tuple[int, Value] | None, behind: int) -> Value:
    """Return ``sums`` with a bias that the graph computes, behind whose dimension stand so many others."""
    added = None if bias is None else op.get(bias[0])
    return op.call(raised, sums, added, behind) if isinstance(added, fx.Node) else sums


def _stored(op: Op, at: int, zero: int | None, scale: Value | None, axis: int) -> Constant | None:
    """Return input ``at`` as a weight; ``None`` where the file does not store what that takes."""
    steps = Constant(torch.ones(()), "") if scale is None else scale
    return as_weight(op, op[at], op.dtype(at), steps, None if zero is None else op.get(zero), axis, None)


def _requantised(op: Op, sums: Value, factor: Value, zero: int, axis: int | None = None) -> Value:
    dtype = op.dtype(zero) if op.get(zero) is not None else op.dtype(0)
    return op.levels(requantised, sums, factor, shift_of(op.get(zero)), dtype, axis, dtype=dtype)


def _whole(sums: Value) -> Value:
    """Return sums as the integers of 32 bits that they are."""
    if isinstance(sums, fx.Node):
        return stand_for(sums, torch.int32)
    return Constant(sums.tensor.to(torch.int32), sums.name)


def _with_bias(op: Op, y: Value, bias: int) -> Value:
    return y if op.get(bias) is None else op.call(torch.add, y, op.parameter(bias))


def _scale_behind(op: Op) -> Constant | None:
    """Return the stored number, or one for each output, by which the sums are multiplied, if there is one.

    Quantisers write ``sums * (x_scale * w_scale)``, so it is what the levels of the weight stand for.
    """
    scale = op.factor_behind()
    sizes = {size for size in op.shape(1) or () if size is not None}
    if scale is None or not scale.tensor.is_floating_point() or scale.tensor.numel() not in {1, *sizes}:
        return None
    usable = bool((scale.tensor > 0).all()) and bool(scale.tensor.isfinite().all())
    return Constant(scale.tensor.reshape(-1), scale.name) if usable else None


def raised(sums: Tensor, bias: Tensor, behind: int) -> Tensor:
    """Return whole numbers plus one for each channel, in double precision, which holds them."""
    return sums + bias.to(torch.float64).reshape(*bias.shape, *[1] * behind)


reads(raised)
rule(first, raised)
