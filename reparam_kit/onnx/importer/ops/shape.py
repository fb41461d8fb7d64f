"""Operators that read a shape or arrange the same numbers in another one."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import Tensor

from reparam_kit.errors import InputError
from reparam_kit.onnx.importer.batch import FRONT, Function, Images, Planned, place, rearrangement, rule
from reparam_kit.onnx.importer.levels import picks, reads
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import extended, first, permuted
from reparam_kit.onnx.importer.values import Constant, Value


@operator("Shape")
def shape(op: Op) -> Value:
    """Return the sizes from ``start`` to ``end``. The numbers of a constant are not read: it may be trained."""
    x = op[0].tensor if isinstance(op[0], Constant) else op[0]
    return op.call(sizes_of, x, op.attr("start"), op.attr("end"), on_cpu=True)


@operator("Size")
def size(op: Op) -> Value:
    """Return the number of elements."""
    return op.call(count_of, op[0].tensor if isinstance(op[0], Constant) else op[0], on_cpu=True)


@operator("Reshape", since=5)
def reshape(op: Op) -> Value:
    """Take x, sizes; -1 is what remains, and 0 the input's size there unless ``allowzero``."""
    return op.reshape(reshaped, op[0], op.numbers(1), op.flag("allowzero"))


@operator("Flatten")
def flatten(op: Op) -> Value:
    """Return a matrix, the dimensions before ``axis`` by those from ``axis`` on."""
    return op.reshape(as_matrix, op[0], op.attr("axis"))


@operator("Transpose")
def transpose(op: Op) -> Value:
    """Transpose; ``perm`` reverses the dimensions by default. A weight that is transposed stays one."""
    x, order = op[0], op.attr("perm") or tuple(reversed(range(op.rank(0))))
    return x.permuted(order) if isinstance(x, Constant) else op.call(torch.permute, x, order)


@operator("Squeeze")
def squeeze(op: Op) -> Value:
    """Without ``axes``: all dimensions of size 1."""
    axes = op.setting("axes", 1)
    return op.reshape(torch.squeeze, op[0]) if axes is None else op.reshape(squeezed, op[0], axes)


@operator("Unsqueeze")
def unsqueeze(op: Op) -> Value:
    """Unsqueeze; ``axes`` are those of the result."""
    return op.reshape(unsqueezed, op[0], op.setting("axes", 1))


@operator("Expand")
def expand(op: Op) -> Value:
    """Take x, sizes; both are broadcast to each other."""
    return op.call(expanded, op[0], op.numbers(1))


@operator("Tile", since=6)
def tile(op: Op) -> Value:
    """Take x, repeats."""
    return op.call(torch.tile, op[0], op.numbers(1))


@operator("DepthToSpace")
def depth_to_space(op: Op) -> Value:
    """Read ``mode``: whether the channels count the block first (DCR) or last (CRD)."""
    return op.call(depth_moved_to_space, op[0], op.attr("blocksize"), op.attr("mode") == "CRD")


@operator("SpaceToDepth")
def space_to_depth(op: Op) -> Value:
    """Reverse DepthToSpace; ``mode`` came with version 28."""
    return op.call(space_moved_to_depth, op[0], op.attr("blocksize"), op.attr("mode") == "CRD")


def sizes_of(x: Tensor, start: int | None, end: int | None) -> Tensor:
    """Return the shape of ``x``, or a part of it, as int64 on the CPU."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64)


def count_of(x: Tensor) -> Tensor:
    """Return the number of elements of ``x``, as int64 on the CPU."""
    return torch.tensor(x.numel())


def reshaped(x: Tensor, sizes: Sequence[int], allowzero: bool) -> Tensor:
    """Return ``x`` in the shape ``sizes``, where 0 stands for the size of ``x`` unless ``allowzero``."""
    if not allowzero:
        sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(sizes)]
    return x.reshape(tuple(sizes))


def as_matrix(x: Tensor, axis: int) -> Tensor:
    """Return ``x`` as a matrix of the dimensions before ``axis`` by the others."""
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


def squeezed(x: Tensor, axes: list[int]) -> Tensor:
    """Return ``x`` without the dimensions ``axes``. torch would keep those that are not of size 1."""
    for axis in axes:
        if x.shape[axis] != 1:
            raise InputError(
                f"a Squeeze drops dimension {axis}, which has {x.shape[axis]} entries here; it takes a batch of 1"
            )
    return torch.squeeze(x, tuple(axes))


def unsqueezed(x: Tensor, axes: list[int]) -> Tensor:
    """Return ``x`` with dimensions of size 1, which are at ``axes`` of the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


def expanded(x: Tensor, sizes: list[int]) -> Tensor:
    """Return ``x`` and a tensor of ``sizes`` broadcast to each other."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(sizes)))  # type: ignore[no-untyped-call]


def depth_moved_to_space(x: Tensor, block: int, block_last: bool) -> Tensor:
    """Move [N, C, H, W] -> [N, C / block^2, H * block, W * block]."""
    n, _, h, w = x.shape
    if block_last:
        x = x.reshape(n, -1, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        x = x.reshape(n, block, block, -1, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, -1, h * block, w * block)


def space_moved_to_depth(x: Tensor, block: int, block_last: bool) -> Tensor:
    """Move [N, C, H, W] -> [N, C * block^2, H / block, W / block]."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // block, block, w // block, block)
    x = x.permute(0, 1, 3, 5, 2, 4) if block_last else x.permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * block * block, h // block, w // block)


def sizes_in_file(x: Tensor, share: int | Fraction, where: int, start: int | None, end: int | None) -> Tensor:
    """Return :func:`sizes_of` what the file has in place of ``x``, which has ``share`` times as many entries at
    ``where``.
    """
    sizes = [n // share if dim == where else n for dim, n in enumerate(x.shape)]
    return torch.tensor([] if where == FRONT else sizes[start:end], dtype=torch.int64)


def count_in_file(x: Tensor, share: int | Fraction) -> Tensor:
    """Return :func:`count_of` what the file has in place of ``x``, which has ``share`` times as many entries."""
    return torch.tensor(x.numel() // share)


def expanded_beside(x: Tensor, sizes: list[int], at: int) -> Tensor:
    """Expand as :func:`expanded`, where the dimension ``at``, counted from the last, stays as long as it is in
    ``x``.
    """
    return expanded(x, [1 if dim == len(sizes) - at else n for dim, n in enumerate(sizes)])


def _measured(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned:
    x, *rest = args
    if function is count_of:
        return count_in_file, (x, images.share), None
    return sizes_in_file, (x, images.share, place(x), *rest), None


def _expanded(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    plan = extended(images, function, args, result)
    if plan is None or plan[2] == FRONT:
        return plan
    return expanded_beside, (*args, result.dim() - plan[2]), plan[2]


rule(rearrangement, reshaped, as_matrix, squeezed, unsqueezed, torch.squeeze, torch.flatten)
rule(first, depth_moved_to_space, space_moved_to_depth)
rule(permuted, torch.permute)
rule(extended, torch.tile)
rule(_measured, sizes_of, count_of)
rule(_expanded, expanded)
picks(reshaped, as_matrix, squeezed, unsqueezed, torch.squeeze, torch.flatten, torch.permute, torch.tile)
picks(expanded, depth_moved_to_space, space_moved_to_depth)
reads(sizes_of, count_of)
