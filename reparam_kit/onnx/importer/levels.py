"""Values that stand for integers, held as their floating-point levels, so that a gradient passes whatever moves them.

A function that only picks and arranges entries does so with the levels. Any other is given the integers themselves, and
the gradient that it would have on the levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.rules import elementwise
from reparam_kit.onnx.importer.values import as_dtype, ends, leaves

_KEY = "integers"
_AT_ONCE = 2**17
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


class Scaled(NamedTuple):
    """Numbers ``x`` times (``torch.mul``) or over (``torch.div``) others that broadcast to them, or as they are.

    A gradient is scaled alike on its way back.
    """

    x: Tensor
    function: Callable[..., Tensor] = torch.mul
    by: Tensor | None = None


def at_level(
    at: Tensor | Scaled,
    shift: Tensor | None,
    dtype: torch.dtype,
    *,
    saturates: bool = True,
    less: bool = False,
) -> Tensor:
    """Return ``shift`` plus the nearest integer for each entry of ``at``, as levels of ``dtype``; ties go to the even
    one. It may be given ``less`` the shift again.

    The gradient is that of ``at``, and zero where a level beyond the first or the last is nearest, unless it is known
    that at most a rounding goes beyond (not ``saturates``).
    """
    x, function, by = at if isinstance(at, Scaled) else Scaled(at)
    if by is not None and by.requires_grad:
        x, by = function(x, by), None
    given = x.detach().contiguous()
    level, inside = torch.empty_like(given), mask_for(given) if saturates and x.requires_grad else None
    shift = None if shift is None else shift.to(x.dtype)
    for part, result, mask, added, factor in in_parts([given, level, inside], [shift, by]):
        room = torch.empty_like(part) if mask is not None else result
        numbers = room.copy_(part) if factor is None else function(part, factor, out=room)
        settled(numbers, added, *ends(dtype), result, mask)
        if less and added is not None:
            result.sub_(added)
    return straight_through(level, inside, Scaled(x, function, by))


def settled(
    at: Tensor, shift: Tensor | None, first: int, last: int, level: Tensor, inside: Tensor | None
) -> None:
    """Let ``level`` be ``shift`` plus the nearest integer, between ``first`` and ``last``, for each entry of ``at``,
    which is overwritten; ``inside`` becomes 1, or 0 where one beyond is nearest.

    Comparisons that give floating-point numbers take a fraction of the time of others.
    """
    nearest = at.round_()
    if shift is not None:
        nearest.add_(shift)
    torch.clamp(nearest, first, last, out=level)
    if inside is not None:
        inside.copy_(nearest.eq_(level))


def mask_for(x: Tensor) -> Tensor:
    """Return an empty mask for ``x``, of what numbers are multiplied by in little time and memory."""
    return torch.empty_like(x, dtype=torch.int8, memory_format=torch.contiguous_format)


def in_parts(tensors: Sequence[Tensor | None], settings: Sequence[Tensor | None] = ()) -> Iterator[list[Any]]:
    """Yield parts of contiguous tensors of one shape which, on a CPU, fit into its cache, then ``settings``, which
    broadcast to them: cheap operations on large tensors take the time of moving the numbers.

    ``None`` is given as it is. Beside settings that are not the same for all, parts are whole entries of the first
    dimension, such as images.
    """
    first = next(tensor for tensor in tensors if tensor is not None)
    size, count = first.shape, max(first.numel(), 1)
    kept = [s.reshape(()) if s is not None and s.numel() == 1 else s for s in settings]
    broad = any(s is not None and s.dim() for s in kept)
    if not first.is_cpu:
        yield [*tensors, *kept]
        return
    length = max(_AT_ONCE * size[0] // count, 1) if broad else _AT_ONCE
    split: list[Iterable[Tensor | None]] = [
        repeat(None) if tensor is None else torch.split(tensor if broad else tensor.view(-1), length)
        for tensor in tensors
    ]
    for s in kept:
        along = s is not None and s.dim() == len(size) > 0 and s.shape[0] > 1
        split.append(torch.split(s, length) if s is not None and along else repeat(s))
    yield from map(list, zip(*split, strict=False))


def straight_through(value: Tensor, inside: Tensor | None, *sources: Tensor | Scaled) -> Tensor:
    """Return ``value``, with the gradient of the sum of ``sources`` where ``inside`` is 1, or everywhere, and none
    where it is 0.
    """
    scaled = [source if isinstance(source, Scaled) else Scaled(source) for source in sources]
    xs, functions, factors = zip(*scaled, strict=True)
    result: Tensor = _StraightThrough.apply(value, inside, functions, factors, *xs)  # type: ignore[no-untyped-call]
    return result


class _StraightThrough(torch.autograd.Function):
    """In as few passes over the numbers as can be."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        inside: Tensor | None,
        functions: tuple[Callable[..., Tensor], ...],
        factors: tuple[Tensor | None, ...],
        *xs: Tensor,
    ) -> Tensor:
        ctx.functions = functions
        ctx.save_for_backward(inside, *factors)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inside, *factors = ctx.saved_tensors
        grad = grads[0]
        passed = [
            _passed(grad, inside, function, by) if needed else None
            for function, by, needed in zip(ctx.functions, factors, ctx.needs_input_grad[4:], strict=True)
        ]
        return None, None, None, None, *passed


def _passed(
    grad: Tensor, inside: Tensor | None, function: Callable[..., Tensor], by: Tensor | None
) -> Tensor:
    if inside is None and by is not None and function is torch.div and by.numel() == 1:
        return grad * by.reciprocal()  # takes less time, and one rounding more
    if inside is None:
        return grad if by is None else function(grad, by)
    grad = grad.contiguous()
    passed = torch.empty_like(grad)
    for part, given, mask, factor in in_parts([passed, grad, inside], [by]):
        part.copy_(mask).mul_(given)
        if factor is not None:
            function(part, factor, out=part)
    return passed


def recast(x: Tensor, old: torch.dtype, new: torch.dtype) -> Tensor:
    """Levels of ``old`` as those of ``new``, which goes around where it has no such level."""
    return with_gradient(as_dtype(as_dtype(x.detach(), old), new), x)


picks(recast)
reads(stored_as, as_numbers)
rule(elementwise, stored_as, as_numbers, with_gradient, recast)
