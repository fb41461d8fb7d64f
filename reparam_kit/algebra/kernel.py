"""A linear operator as a kernel, and the two ways of joining operators: in series and in parallel.

Every operator here is a correlation with ``taps`` weights per channel pair on the tap grid of the site that it
belongs to: neighbouring taps lie ``dilation`` pixels apart in the input, so dilation, stride and padding never
enter the algebra. For ``first`` (M x C) followed by ``second`` (O x M), without padding between them,

    weight[o, c, t] = sum_m sum_u second[o, m, u] * first[m, c, t - u]
    bias[o]         = second.bias[o] + sum_m (sum_u second[o, m, u]) * first.bias[m]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


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

    def __rshift__(self, then: Kernel) -> Kernel:
        """Compose in series: this operator, then ``then``, as one kernel of ``t1 + t2 - 1`` taps.

        Both kernels must have the same dtype. The result has the coarser of the two groupings.
        """
        together = gcd(self.groups, then.groups)
        first = self if self.groups % then.groups == 0 else self.regroup(together)
        # g: groups of ``then``, p: groups of ``first`` in each of them (1 where it has fewer), i: channels between.
        groups, parts = then.groups, first.groups // together
        inner, outer = first.weight.shape[0] // (groups * parts), then.weight.shape[0] // groups
        channels = first.weight.shape[1]
        a = first.weight.reshape(groups * parts, inner, channels, -1)
        b = then.weight.reshape(groups, outer, parts, inner, -1)
        taps = tuple(s + t - 1 for s, t in zip(first.taps, then.taps, strict=True))
        if b.shape[-1] == 1:
            rows = b.permute(0, 2, 1, 3, 4).reshape(-1, outer, inner)
            weight = torch.bmm(rows, a.flatten(2))
        elif a.shape[-1] == 1:
            rows = b.permute(0, 2, 1, 4, 3).reshape(groups * parts, -1, inner)
            weight = (
                torch.bmm(rows, a.squeeze(-1)).reshape(groups * parts, outer, -1, channels).transpose(2, 3)
            )
        else:
            swapped = b.permute(0, 2, 3, 1, 4).reshape(-1, outer, *then.taps)
            weight = _CONV_TRANSPOSE[len(taps)](
                first.weight.transpose(0, 1), swapped, groups=groups * parts
            ).transpose(0, 1)
        weight = weight.reshape(groups, parts, outer, channels, -1).transpose(1, 2)
        bias = then.bias
        if first.bias is not None:
            carried = torch.einsum("gopit,gpi->go", b, first.bias.reshape(groups, parts, inner)).reshape(-1)
            bias = carried if bias is None else bias + carried
        return Kernel(weight.reshape(groups * outer, parts * channels, *taps), together, bias)

    def plus(self, branches: Sequence[Kernel]) -> Kernel:
        """Compose in parallel: the sum of this operator and smaller ones, each at the centre of its taps.

        For an even extent ``k`` the centre is tap ``(k - 1) // 2``, the one that "same" padding aligns with the output.
        The groups of each branch must be a multiple of this operator's.
        """
        aligned = [branch.regroup(self.groups) for branch in branches]
        biases = [kernel.bias for kernel in (self, *aligned) if kernel.bias is not None]
        bias = sum(biases[1:], start=biases[0]) if biases else None
        weight: Tensor = _Sum.apply(self.weight, *(k.weight for k in aligned))  # type: ignore[no-untyped-call]
        return Kernel(weight, self.groups, bias)

    def scale(self, factor: Tensor, shift: Tensor | None = None) -> Kernel:
        """Follow by the per-channel affine map ``y -> factor * y + shift``, both ``[O]``."""
        column = factor.reshape(-1, *[1] * (self.weight.dim() - 1))
        bias = None if self.bias is None else self.bias * factor
        if shift is not None:
            bias = shift if bias is None else bias + shift
        return Kernel(self.weight * column, self.groups, bias)

    def regroup(self, groups: int) -> Kernel:
        """Return the same operator written with fewer groups (a divisor of the present ones): block-diagonal."""
        if groups == self.groups:
            return self
        parts = self.groups // groups
        out, channels = self.weight.shape[0] // self.groups, self.weight.shape[1]
        blocks = self.weight.reshape(groups, parts, out, channels, -1)
        eye = torch.eye(parts, dtype=self.weight.dtype, device=self.weight.device)
        dense = torch.einsum("gpoct,pq->gpoqct", blocks, eye)
        return Kernel(dense.reshape(-1, parts * channels, *self.taps), groups, self.bias)


class _Sum(torch.autograd.Function):
    """The sum of kernels, each at the centre of the first one's taps, in one tensor.

    It is as large as the net's weights and made anew in every step, so what counts is memory traffic: nothing is
    padded, nothing but the result is allocated, and the gradients are views of its gradient.
    """

    @staticmethod
    def forward(main: Tensor, *branches: Tensor) -> Tensor:
        total = main.clone()
        for branch in branches:
            _centre(total, branch.shape).add_(branch)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.shapes = [branch.shape for branch in inputs[1:]]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return grad, *(_centre(grad, shape) for shape in ctx.shapes)


def _centre(weight: Tensor, shape: torch.Size) -> Tensor:
    """View of the taps of ``weight`` that a kernel of ``shape`` takes at its centre."""
    for axis, have in enumerate(shape[2:], start=2):
        weight = weight.narrow(axis, (weight.shape[axis] - have) // 2, have)
    return weight


def span(taps: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Taps of a chain whose factors have ``taps``: ``1 + sum(t - 1)`` in each dimension."""
    return tuple(1 + sum(t - 1 for t in axis) for axis in zip(*taps, strict=True))
