"""Values that stand for integers, held as their floating-point levels, so that a gradient passes whatever moves them.

A function that only picks and arranges entries does so with the levels. Any other is given the integers themselves, and
the gradient that it would have on the levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.rules import elementwise
from reparam_kit.onnx.importer.values import as_dtype, ends, leaves

_KEY = "integers"
_AT_ONCE = 2**16
_PICKING: set[Callable[..., Any]] = set()
_READING: set[Callable[..., Any]] = set()
_PICKING_LAYERS = (
    nn.ReLU,
    nn.ReLU6,
    nn.Identity,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


def picks(*functions: Callable[..., Any]) -> None:
    """These give entries of their arguments and nothing else, and so levels where they are given levels."""
    _PICKING.update(functions)


def reads(*functions: Callable[..., Any]) -> None:
    """These take levels for the integers that they are, and give none."""
    _READING.update(functions)


def takes_levels(function: object) -> bool:
    """Return whether a function or layer may be given levels in the place of integers."""
    return isinstance(function, _PICKING_LAYERS) or function in _PICKING or function in _READING


def gives_levels(function: object) -> bool:
    """Return whether what it makes of levels are levels again."""
    return takes_levels(function) and function not in _READING


def integers(node: object) -> torch.dtype | None:
    """Return the type of the integers of which ``node`` holds the levels; ``None`` where it holds what it says."""
    found: torch.dtype | None = node.meta.get(_KEY) if isinstance(node, fx.Node) else None
    return found


def stand_for(node: fx.Node, dtype: torch.dtype | None) -> fx.Node:
    """Return ``node``, which holds the levels of such integers."""
    node.meta[_KEY] = dtype
    return node


def integers_among(args: Any) -> torch.dtype | None:
    """Return the type of the first of the arguments that are levels."""
    return next((dtype for leaf in leaves(args) if (dtype := integers(leaf))), None)


def stored_as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Levels as the integers that they are."""
    return as_dtype(x, dtype)


def as_numbers(x: Tensor) -> Tensor:
    """Levels as ordinary numbers."""
    return x


def with_gradient(x: Tensor, like: Tensor) -> Tensor:
    """Integers ``x`` as levels, with the gradient of ``like``."""
    return x.to(like.dtype) + (like - like.detach())


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


def divisor(scale: Tensor) -> Tensor:
    """Return ``scale``, with the least normal number for 0, to which small ones are rounded in half: all levels are 0
    there, and 0 / 0 would be no level and no gradient.
    """
    return torch.where(scale == 0, torch.finfo(scale.dtype).tiny, scale)


def at_level(at: Tensor, shift: Tensor | int, dtype: torch.dtype) -> Tensor:
    """Return ``shift`` plus the nearest integer for each entry of ``at``, as levels of ``dtype``; ties go to the even
    one.

    The gradient is that of ``at``, and zero where a level beyond the first or the last is nearest.
    """
    given = at.detach().contiguous()
    level, inside = torch.empty_like(given), mask_for(given)
    shared = isinstance(shift, Tensor) and shift.numel() > 1  # broadcasts to the whole
    shift = shift.reshape(()) if isinstance(shift, Tensor) and not shared else shift
    for part, result, mask in [(given, level, inside)] if shared else in_parts(given, level, inside):
        result.copy_(settled(result.copy_(part), shift, *ends(dtype), mask))
    return straight_through(at, level, inside)


def settled(at: Tensor, shift: Tensor | int, first: int, last: int, inside: Tensor) -> Tensor:
    """Return ``shift`` plus the nearest integer, between ``first`` and ``last``, for each entry of ``at``, which is
    overwritten; ``inside`` becomes 1, or 0 where one beyond is nearest.

    Comparisons that give floating-point numbers take a fraction of the time of others.
    """
    nearest = at.round_().add_(shift)
    level = nearest.clamp(first, last)
    inside.copy_(nearest.eq_(level))
    return level


def mask_for(x: Tensor) -> Tensor:
    """Return an empty mask for ``x``, of what numbers are multiplied by in little time and memory."""
    return torch.empty_like(x, dtype=torch.int8, memory_format=torch.contiguous_format)


def in_parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield parts of contiguous tensors which, on a CPU, fit into its cache: cheap operations on large tensors take the
    time of moving the numbers.
    """
    length = _AT_ONCE if tensors[0].is_cpu else max(tensors[0].numel(), 1)
    yield from zip(*(torch.split(tensor.view(-1), length) for tensor in tensors), strict=True)


def straight_through(x: Tensor, value: Tensor, inside: Tensor | None = None) -> Tensor:
    """Return ``value``, with the gradient of ``x`` where ``inside`` is 1, or everywhere, and none where it is 0."""
    result: Tensor = _StraightThrough.apply(x, value, inside)  # type: ignore[no-untyped-call]
    return result


class _StraightThrough(torch.autograd.Function):
    """In as few passes over the numbers as can be."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, inside: Tensor | None) -> Tensor:
        ctx.save_for_backward(inside)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        if inside is None:
            return grads[0], None, None
        grad = grads[0].contiguous()
        passed = torch.empty_like(grad)
        for part, given, mask in in_parts(passed, grad, inside):
            part.copy_(mask).mul_(given)
        return passed, None, None


def recast(x: Tensor, old: torch.dtype, new: torch.dtype) -> Tensor:
    """Levels of ``old`` as those of ``new``, which goes around where it has no such level."""
    return with_gradient(as_dtype(as_dtype(x.detach(), old), new), x)


picks(recast)
reads(stored_as, as_numbers)
rule(elementwise, stored_as, as_numbers, with_gradient, recast)
