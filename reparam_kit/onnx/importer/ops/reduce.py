"""Reductions over some dimensions, or over all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.levels import picks
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import along
from reparam_kit.onnx.importer.values import Value

Axes = tuple[int, ...]


def total(x: Tensor, axes: Axes, keepdim: bool) -> Tensor:
    """Sum, in the dtype of ``x`` (torch adds small integers up in 64 bits)."""
    return torch.sum(x, axes, keepdim, dtype=x.dtype)


def product(x: Tensor, axes: Axes, keepdim: bool) -> Tensor:
    """Product, in the dtype of ``x``."""
    for axis in sorted((a % x.dim() for a in axes), reverse=True):
        x = torch.prod(x, axis, keepdim, dtype=x.dtype)
    return x


def l1_norm(x: Tensor, axes: Axes, keepdim: bool) -> Tensor:
    """Sum of absolute values."""
    return total(x.abs(), axes, keepdim)


def l2_norm(x: Tensor, axes: Axes, keepdim: bool) -> Tensor:
    """Root of the sum of squares."""
    return torch.linalg.vector_norm(x, 2, axes, keepdim)  # type: ignore[no-any-return]


def sum_of_squares(x: Tensor, axes: Axes, keepdim: bool) -> Tensor:
    """Sum of squares."""
    return total(x * x, axes, keepdim)


def log_of_sum(x: Tensor, axes: Axes, keepdim: bool) -> Tensor:
    """Logarithm of the sum."""
    return torch.log(total(x, axes, keepdim))


_REDUCE: dict[str, Callable[[Tensor, Axes, bool], Tensor]] = {
    "ReduceL1": l1_norm,
    "ReduceL2": l2_norm,
    "ReduceLogSum": log_of_sum,
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceProd": product,
    "ReduceSum": total,
    "ReduceSumSquare": sum_of_squares,
}


@operator(*_REDUCE)
def reduce(op: Op) -> Value:
    """Over ``axes``. Without any: over all dimensions, or with ``noop_with_empty_axes`` over none."""
    x, axes, none = op[0], op.setting("axes", 1), op.flag("noop_with_empty_axes")
    keepdims = op.flag("keepdims")
    if isinstance(axes, fx.Node) and none:
        raise UnsupportedError(
            "noop_with_empty_axes with axes that are computed at run time is not supported"
        )
    if not axes and none:  # what is left is what the operator does to each element
        return op.call(_REDUCE[op.type], op.call(torch.unsqueeze, x, -1), (-1,), False)
    return op.call(_REDUCE[op.type], x, axes or tuple(range(op.rank(0))), keepdims)


@operator("ArgMax", "ArgMin")
def arg_reduce(op: Op) -> Value:
    """Index of the first extreme value along ``axis``, or of the last with ``select_last_index``."""
    function = torch.argmax if op.type == "ArgMax" else torch.argmin
    axis, keepdims = op.attr("axis"), op.flag("keepdims")
    if op.flag("select_last_index"):
        return op.call(last_index, op[0], axis, keepdims, op.type == "ArgMax")
    return op.call(function, op[0], axis, keepdims)


def last_index(x: Tensor, axis: int, keepdim: bool, largest: bool) -> Tensor:
    """Index of the last extreme value along ``axis``."""
    reverse = (torch.argmax if largest else torch.argmin)(x.flip(axis), axis, keepdim)
    return x.shape[axis] - 1 - reverse


def running_total(x: Tensor, axis: int, exclusive: bool, reverse: bool) -> Tensor:
    """Sum of all values up to each one, itself included unless ``exclusive``; from the end with ``reverse``."""
    x = x.flip(axis) if reverse else x
    if exclusive:
        x = torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    total = torch.cumsum(x, axis, dtype=x.dtype)
    return total.flip(axis) if reverse else total


@operator("CumSum")
def cumulative_sum(op: Op) -> Value:
    """Along one axis."""
    return op.call(running_total, op[0], op.number("axis", 1), op.flag("exclusive"), op.flag("reverse"))


rule(along(1), *_REDUCE.values(), torch.argmax, torch.argmin, last_index, running_total)
picks(torch.amax, torch.amin)
