"""A linear operator as a kernel, and the ways of joining operators: in series, in parallel, and side by side.

Every operator here is a correlation with ``taps`` weights per channel pair on the tap grid of the site that it
belongs to: neighbouring taps lie ``dilation`` pixels apart in the input, so dilation, stride and padding never
enter the algebra. For ``first`` (M x C) followed by ``second`` (O x M), without padding between them,

    weight[o, c, t] = sum_m sum_u second[o, m, u] * first[m, c, t - u]
    bias[o]         = second.bias[o] + sum_m (sum_u second[o, m, u]) * first.bias[m]

Operators side by side, each on channels of its own, are one operator of all their groups. So what composes one layer
composes many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reparam_kit.algebra.product import Product


@dataclass(frozen=True)
class Geometry:
    """Shape of a convolution kernel: ``[out_channels, in_channels / groups, *taps]``."""

    in_channels: int
    out_channels: int
    taps: tuple[int, ...]
    groups: int = 1

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.groups, *self.taps)


@dataclass(frozen=True)
class Kernel:
    """Correlation with ``weight`` ``[O, C / groups, *taps]``, then ``+ bias`` ``[O]`` (None: no bias)."""

    weight: Tensor
    groups: int = 1
    bias: Tensor | None = None

    @property
    def taps(self) -> tuple[int, ...]:
        return tuple(self.weight.shape[2:])

    def times(self, then: Kernel) -> Product:
        """Return how this operator's weight and that of ``then`` multiply."""
        return Product.of(self.weight.shape, self.groups, then.weight.shape, then.groups)

    def __rshift__(self, then: Kernel) -> Kernel:
        """Compose in series: this operator, then ``then``, as one kernel of ``t1 + t2 - 1`` taps.

        Both kernels must have the same dtype. The result has the coarser of the two groupings.
        """
        product = self.times(then)
        first = self.regroup(product.first_groups)
        bias = then.bias
        if first.bias is not None:
            carried = product.carry(first.bias, then.weight)
            bias = carried if bias is None else bias + carried
        return Kernel(product.weight(first.weight, then.weight), product.groups, bias)

    def plus(self, branches: Sequence[Kernel]) -> Kernel:
        """Compose in parallel: the sum of this operator and smaller ones, each at the centre of its taps.

        For an even extent ``k`` the centre is tap ``(k - 1) // 2``, the one that "same" padding aligns with the output.
        The groups of each branch must be a multiple of this operator's.
        """
        biases = [kernel.bias for kernel in (self, *branches) if kernel.bias is not None]
        bias = sum(biases[1:], start=biases[0]) if biases else None
        groups = [kernel.groups for kernel in (self, *branches)]
        # Where there are no gradients, torch.compile hands forward a context that it does not take.
        plain = torch.compiler.is_compiling() and not torch.is_grad_enabled()
        added: Any = _Sum.forward if plain else _Sum.apply
        weight: Tensor = added(self.weight, groups, *(k.weight for k in branches))
        return Kernel(weight, self.groups, bias)

    def add_to(self, total: Tensor, groups: int) -> None:
        """Add the weight to that of a larger operator of ``groups`` groups, in place, at the centre of its taps."""
        parts = self.groups // groups
        within(total, groups, parts, self.weight.shape).add_(blocks(self.weight, groups, parts))

    def scale(self, factor: Tensor, shift: Tensor | None = None) -> Kernel:
        """Follow by the per-channel affine map ``y -> factor * y + shift``, both ``[O]``."""
        bias = None if self.bias is None else self.bias * factor
        if shift is not None:
            bias = shift if bias is None else bias + shift
        return Kernel(self.weight * self.column(factor), self.groups, bias)

    def column(self, values: Tensor) -> Tensor:
        """View a value for each output channel, ``[O]``, as what multiplies the weight."""
        return values.view(-1, *[1] * (self.weight.dim() - 1))

    def regroup(self, groups: int) -> Kernel:
        """Return the same operator written with fewer groups (a divisor of the present ones): block-diagonal."""
        if groups == self.groups:
            return self
        parts = self.groups // groups
        out, channels, *taps = self.weight.shape
        dense = self.weight.new_zeros(out, parts * channels, *taps)
        within(dense, groups, parts, self.weight.shape).copy_(blocks(self.weight, groups, parts))
        return Kernel(dense, groups, self.bias)


class _Sum(torch.autograd.Function):
    """The sum of kernels, each at the centre of the first one's taps, in one tensor.

    It is as large as the net's weights and made anew in every step, so what counts is memory traffic: nothing is
    padded, nothing but the result is allocated, and the gradients are views of its gradient.
    """

    @staticmethod
    def forward(main: Tensor, groups: Sequence[int], *branches: Tensor) -> Tensor:
        total = main.clone()
        for own, branch in zip(groups[1:], branches, strict=True):
            Kernel(branch, own).add_to(total, groups[0])
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, groups, *branches = inputs
        ctx.groups = groups[0]
        ctx.branches = [
            (own // groups[0], branch.shape) for own, branch in zip(groups[1:], branches, strict=True)
        ]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None, *(part_of(grad, ctx.groups, *branch) for branch in ctx.branches)


def series_gradients(
    first: Kernel, then: Kernel, grad: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of the weights of two kernels, each where it is wanted, from that of ``first >> then``."""
    product = first.times(then)
    dense = first.regroup(product.first_groups)
    of_first, of_then = product.gradients(dense.weight, then.weight, grad, wanted)
    if of_first is not None:
        parts = first.groups // product.first_groups
        of_first = part_of(of_first, product.first_groups, parts, first.weight.shape)
    return of_first, of_then


def part_of(weight: Tensor, groups: int, parts: int, shape: Sequence[int]) -> Tensor:
    """Return what a kernel of ``shape`` is of ``weight``, see ``within``: a view if it has its groups."""
    part = within(weight, groups, parts, shape)
    return part if parts == 1 else part.reshape(shape)


def within(weight: Tensor, groups: int, parts: int, shape: Sequence[int]) -> Tensor:
    """View of what a kernel of ``shape``, of ``parts`` groups in each of ``groups``, is of ``weight``, as ``blocks``.

    Those are the taps at the centre, and on the diagonal of each group its parts.
    """
    if weight.shape[2:] != shape[2:]:
        starts = [(room - have) // 2 for room, have in zip(weight.shape[2:], shape[2:], strict=True)]
        middle = [slice(start, start + have) for start, have in zip(starts, shape[2:], strict=True)]
        index: Any = (slice(None), slice(None), *middle)
        weight = weight[index]
    if parts == 1:
        return weight
    square = weight.view(groups, parts, shape[0] // (groups * parts), parts, *shape[1:])
    return square.diagonal(0, 1, 3).movedim(-1, 1)


def blocks(weight: Tensor, groups: int, parts: int) -> Tensor:
    """View of a kernel of ``groups * parts`` groups as ``within`` views one of ``groups``."""
    out, *rest = weight.shape
    return weight if parts == 1 else weight.view(groups, parts, out // (groups * parts), *rest)


def span(taps: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Taps of a chain whose factors have ``taps``: ``1 + sum(t - 1)`` in each dimension."""
    return tuple(1 + sum(t - 1 for t in axis) for axis in zip(*taps, strict=True))
