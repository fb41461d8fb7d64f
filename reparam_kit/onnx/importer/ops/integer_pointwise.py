"""Operators on quantised values that are no products of matrices, as onnxruntime computes them.

Each takes values as three inputs (levels, scale, zero point), and gives levels of another scale and zero point. Where
it rounds, and whether the zero point is added before or after, differs from one to the other.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.accumulate import centred, ratio, requantised, rescaled
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.levels import (
    Scaled,
    at_level,
    divisor,
    in_parts,
    mask_for,
    reads,
    settled,
    straight_through,
)
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.ops.integer import MICROSOFT, channels_second
from reparam_kit.onnx.importer.ops.quantize import levels
from reparam_kit.onnx.importer.ops.window import (
    Window,
    full_padding,
    innermost_first,
    read_window,
)
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import along, elementwise, first
from reparam_kit.onnx.importer.values import Value, ends


@operator("QLinearAdd", domain=MICROSOFT)
def q_linear_add(op: Op) -> Value:
    """Take a and b."""
    a, b = (op.call(centred, op[index], None, None) for index in (0, 3))
    factors = (op.call(ratio, op[index], op[6]) for index in (1, 4))
    zeros, dtype = (op.get(index) for index in (2, 5, 7)), op.dtype(0)
    return op.levels(sum_of_levels, a, b, *factors, *zeros, dtype, dtype=dtype)


@operator("QLinearMul", domain=MICROSOFT)
def q_linear_mul(op: Op) -> Value:
    """Take a and b."""
    a, b = (op.call(centred, op[index], op.get(index + 2), None) for index in (0, 3))
    factor = op.call(ratio, op.call(torch.mul, op[1], op[4]), op[6])
    return _shifted(op, op.call(rescaled, op.call(torch.mul, a, b), factor, None), 7)


@operator("QLinearLeakyRelu", domain=MICROSOFT)
def q_linear_leaky_relu(op: Op) -> Value:
    """Take x; ``alpha`` is the slope below zero."""
    alpha = op.attr("alpha")
    return _quantised(op, op.call(F.leaky_relu, _numbers(op, 0), 0.01 if alpha is None else alpha), 3)


@operator("QLinearSigmoid", domain=MICROSOFT)
def q_linear_sigmoid(op: Op) -> Value:
    """Take x."""
    return _quantised(op, op.call(torch.sigmoid, _numbers(op, 0)), 3)


@operator("QLinearConcat", domain=MICROSOFT)
def q_linear_concat(op: Op) -> Value:
    """Take the result's scale and zero point, then any number of values."""
    parts = [_quantised(op, _numbers(op, index), 0, index) for index in range(2, len(op), 3)]
    return op.call(torch.cat, parts, op.attr("axis"))


@operator("QLinearWhere", domain=MICROSOFT)
def q_linear_where(op: Op) -> Value:
    """Take a condition, x and y."""
    x, y = (_quantised(op, _numbers(op, index), 7, index) for index in (1, 4))
    return op.call(torch.where, op[0], x, y)


@operator("QLinearGlobalAveragePool", domain=MICROSOFT)
def q_linear_global_average(op: Op) -> Value:
    """Take x [N, C, *spatial]."""
    x, back = channels_second(op, op.call(centred, op[0], op.get(2), None))
    dtype = op.dtype(0)
    return back(op.levels(global_average, x, op[1], op[3], op.get(4), dtype, dtype=dtype))


@operator("QLinearAveragePool", domain=MICROSOFT)
def q_linear_average(op: Op) -> Value:
    """Take x [N, C, *spatial]."""
    window = read_window(op, op.attr("kernel_shape"))
    if set(window.dilation) != {1}:
        raise UnsupportedError(f"dilations {window.dilation} are not supported")
    x, back = channels_second(op, _numbers(op, 0))
    y = op.call(average_in_order, x, window, op.flag("count_include_pad"))
    return back(_shifted(op, op.call(ratio, y, op[3]), 4))


@operator("QLinearSoftmax", domain=MICROSOFT)
def q_linear_softmax(op: Op) -> Value:
    """Take x. Before ``opset`` 13 all dimensions from ``axis`` on are one."""
    old, axis, dtype = (op.attr("opset") or 13) < 13, op.attr("axis"), op.dtype(0)
    dims = (1 if old else -1) if axis is None else axis
    rank = op.rank(0)
    axes = tuple(range(dims % rank, rank)) if old else (dims % rank,)
    x = op.call(centred, op[0], None, None)
    op.get(2)  # e^x is the same for all zero points
    return op.levels(softmax_of_levels, x, axes, op[1], op[3], op.get(4), dtype, dtype=dtype)


def _numbers(op: Op, index: int) -> Value:
    """Return what the levels of input ``index`` stand for."""
    x = op.call(centred, op[index], op.get(index + 2), None)
    return op.call(rescaled, x, op[index + 1], None)


def _quantised(op: Op, y: Value, scale: int, like: int = 0) -> Value:
    """Return ``y`` as levels of the scale at that input and the zero point behind it."""
    dtype = op.dtype(like)
    settings = op[scale], op.get(scale + 1), dtype, op.dtype(scale), None, None
    return op.levels(levels, y, *settings, dtype=dtype)


def _shifted(op: Op, y: Value, zero: int) -> Value:
    """Return ``y``, in units of the result's scale, with the zero point added before it is rounded."""
    dtype = op.dtype(0)
    return op.levels(shifted, y, op.get(zero), dtype, dtype=dtype)


def shifted(at: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return ``round(at + zero)`` as levels."""
    return at_level(at if zero is None else at + zero.to(at.dtype), None, dtype)


def sum_of_levels(
    a: Tensor,
    b: Tensor,
    factor_a: Tensor,
    factor_b: Tensor,
    zero_a: Tensor | None,
    zero_b: Tensor | None,
    zero: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Return ``round((a - zero_a) * factor_a + (b - zero_b) * factor_b + zero)`` as levels.

    What is the same for all comes first, then b, then a, each product and sum rounded at once.
    """
    kind = factor_a.dtype
    at_a, at_b, at = (
        torch.zeros((), dtype=kind) if z is None else z.to(kind) for z in (zero_a, zero_b, zero)
    )
    fixed = at - (factor_a * at_a + factor_b * at_b)
    a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
    given = [x.detach().contiguous() for x in (a, b)]
    level = torch.empty_like(given[0])
    inside = mask_for(level)
    for part_a, part_b, result, mask, by_a, by_b, added in in_parts(
        [*given, level, inside], [factor_a, factor_b, fixed]
    ):
        both = part_b.double().mul_(by_b).add_(added).to(kind)
        near = part_a.double().mul_(by_a).add_(both).to(kind)
        settled(near, None, *ends(dtype), result, mask)
    return straight_through(level, inside, Scaled(a, torch.mul, factor_a), Scaled(b, torch.mul, factor_b))


def global_average(
    x: Tensor, scale: Tensor, to_scale: Tensor, zero: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return the levels, less their zero, summed over all but the first two dimensions, as levels of the mean."""
    sums = x.double().flatten(2).sum(-1).reshape(*x.shape[:2], *[1] * (x.dim() - 2))
    return requantised(sums, ratio(scale, to_scale * math.prod(x.shape[2:])), zero, dtype, None)


def average_in_order(x: Tensor, window: Window, include_pad: bool) -> Tensor:
    """Return the mean over each window of ``x`` [N, C, *spatial], summed up from the first to the last of its entries.

    With ``include_pad`` each counts as many entries as the window has.
    """
    size = tuple(x.shape[2:])
    before, after = full_padding(size, window)
    total = _summed(F.pad(x, innermost_first(before, after)), window)
    if include_pad:
        return total / math.prod(window.kernel)
    return total / _summed(F.pad(x.new_ones(1, 1, *size), innermost_first(before, after)), window)


def _summed(x: Tensor, window: Window) -> Tensor:
    total = x.new_zeros(())
    for tap in product(*map(range, window.kernel)):
        part = x
        for dim, (start, kernel, stride) in enumerate(
            zip(tap, window.kernel, window.stride, strict=True), start=2
        ):
            part = part.narrow(dim, start, x.shape[dim] - kernel + 1)
            part = part[(slice(None),) * dim + (slice(None, None, stride),)]
        total = total + part
    return total


def softmax_of_levels(
    x: Tensor, dims: tuple[int, ...], scale: Tensor, to_scale: Tensor, zero: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Return ``softmax(x * scale)`` along ``dims``, as levels of a scale of which one is a whole number of times."""
    count = math.prod(x.shape[dim] for dim in dims)
    most = max(0.0, math.log(torch.finfo(torch.float32).max / count) - 5)
    powers = torch.exp((x - x.amax(dims, keepdim=True)).double() * scale + most).to(scale.dtype)
    shares = powers.double() / powers.sum(dims, keepdim=True)  # their products might be infinite
    at = (shares * torch.floor(1 / divisor(to_scale))).to(scale.dtype)
    return at_level(at, zero, dtype)


reads(shifted, softmax_of_levels, sum_of_levels, global_average)
rule(elementwise, shifted, sum_of_levels, torch.sigmoid, F.leaky_relu)
rule(along(1), softmax_of_levels)
rule(first, global_average, average_in_order)
