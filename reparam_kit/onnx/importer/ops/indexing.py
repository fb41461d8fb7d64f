"""Operators that take parts of tensors, or put tensors together."""

from __future__ import annotations

from operator import getitem

import torch
from torch import Tensor

from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.example import check_count
from reparam_kit.onnx.importer.levels import picks
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import along, picked
from reparam_kit.onnx.importer.values import Constant, Value


@operator("Concat", since=4)
def concat(op: Op) -> Value:
    """Join all inputs, along ``axis``."""
    return op.call(torch.cat, list(op), op.attr("axis"))


@operator("Split", since=2)
def split(op: Op) -> tuple[Value, ...]:
    """Parts along ``axis``, of the sizes ``split`` or else of equal size (``num_outputs`` says what the node shows)."""
    op.attr("num_outputs")
    return op.call_many(parts, op[0], op.setting("split", 1), op.outputs, op.attr("axis"))


@operator("SplitToSequence")
def split_to_sequence(op: Op) -> Value:
    """Take x, and the sizes of the parts or one size for all; without: parts of size 1, kept or not as a dimension."""
    split, keepdims, axis = op.get(1), op.flag("keepdims"), op.attr("axis")
    if split is None:
        return op.call(torch.split, op[0], 1, axis) if keepdims else op.call(torch.unbind, op[0], axis)
    if isinstance(split, Constant) and split.tensor.dim() == 0:
        return op.call(torch.split, op[0], op.number("split", 1), axis)
    return op.call(parts, op[0], op.numbers(1), op.outputs, axis)


@operator("SequenceAt")
def sequence_at(op: Op) -> Value:
    """Take a sequence, and the position in it."""
    return op.call(getitem, op[0], op.number("position", 1))


@operator("Slice", until=9)
def slice_by_attributes(op: Op) -> Value:
    """Slice; ``axes`` are the first ones by default."""
    starts = op.attr("starts")
    axes = op.attr("axes") or tuple(range(len(starts)))
    return op.call(sliced, op[0], starts, op.attr("ends"), axes, None)


@operator("Slice", since=10)
def slice_by_inputs(op: Op) -> Value:
    """Take x, starts, ends, axes, steps."""
    starts, ends, axes, steps = (op.numbers(i) for i in range(1, 5))
    axes = axes or tuple(range(len(op.known(starts)))) or None
    return op.call(sliced, op[0], starts, ends, axes, steps)


@operator("Gather")
def gather(op: Op) -> Value:
    """Take x, indices of any shape, which takes the place of ``axis``."""
    index = op[1]
    if isinstance(index, Constant) and index.tensor.dim() == 0:
        return op.call(torch.select, op[0], op.attr("axis"), op.number("indices", 1))
    return op.call(gathered, op[0], index, op.attr("axis"))


@operator("GatherND", since=11)
def gather_nd(op: Op) -> Value:
    """Take x, indices whose last dimension counts the dimensions of x that one of them points into."""
    return op.call(pointed_at, op[0], op[1], op.attr("batch_dims") or 0)


@operator("Range")
def arange(op: Op) -> Value:
    """Take start, limit, step. ``stash_type`` would set how half types are added up; they are rounded once here."""
    op.attr("stash_type")
    return op.call(stepped, op[0], op[1], op[2])


def parts(x: Tensor, sizes: list[int] | None, count: int, axis: int) -> tuple[Tensor, ...]:
    """Return ``x`` in parts of ``sizes`` along ``axis``, or in ``count`` equal ones (the last may be smaller)."""
    return torch.split(x, -(-x.shape[axis] // count) if sizes is None else list(sizes), axis)


def sliced(
    x: Tensor, starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None
) -> Tensor:
    """Return ``x[starts:ends:steps]`` along each of ``axes``, with the meaning of Python's slices."""
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        chosen = range(x.shape[axis])[start:end:step]
        if step > 0:
            x = x.movedim(axis, 0)[chosen.start : chosen.stop : step].movedim(0, axis)
        else:  # torch slices forwards only
            x = x.index_select(axis, torch.tensor(chosen, dtype=torch.int64, device=x.device))
    return x


def gathered(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Return ``x`` at ``indices`` along ``axis``; negative ones count from the end."""
    axis %= x.dim()
    index = torch.where(indices < 0, indices + x.shape[axis], indices)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, index.reshape(-1)).reshape(shape)


def pointed_at(x: Tensor, indices: Tensor, batch_dims: int) -> Tensor:
    """Return ``x[i, j, ...]`` for every ``(i, j, ...)`` in the last dimension of ``indices``, row by row of the first
    ones.
    """
    rows = (
        torch.arange(x.shape[dim], device=x.device).view(-1, *[1] * (indices.dim() - 2 - dim))
        for dim in range(batch_dims)
    )
    return x[tuple(rows) + indices.unbind(-1)]


def stepped(start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    """Return the numbers from ``start`` up to but without ``limit``."""
    first, last, by = start.item(), limit.item(), step.item()
    check_count(int((last - first) / by))
    return torch.arange(first, last, by, dtype=start.dtype, device=start.device)


rule(along(1), torch.cat, torch.select, torch.unbind)
rule(along(2), gathered, torch.split)
rule(along(3), parts, sliced)
rule(picked, getitem)
picks(torch.cat, torch.select, torch.unbind, gathered, torch.split, parts, sliced, getitem, pointed_at)
