"""The product of two kernels in series, and its gradients.

Channels fall into blocks ``q`` that have nothing to do with each other. In each, for a first operator ``a[q, m, c, s]``
and a second one ``b[q, o, m, u]`` (channels out, in between, and in; taps), and a gradient ``g`` of their product,

    weight[q, o, c, t] = sum_m sum_u b[q, o, m, u] * a[q, m, c, t - u]
    da[q, m, c, s]     = sum_o sum_u b[q, o, m, u] * g[q, o, c, s + u]
    db[q, o, m, u]     = sum_c sum_s a[q, m, c, s] * g[q, o, c, s + u]

Where one of the two has a single tap, these are products of matrices, and otherwise convolutions. Where a matrix would
be a column or so, numbers are multiplied and summed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd, prod

import torch
import torch.nn.functional as F
from torch import Tensor

_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


@dataclass(frozen=True)
class Product:
    """How two kernels multiply, by their shapes.

    ``blocks`` is ``(groups, parts)``: each group of the second operator takes ``parts`` groups of the first, which is
    to be written with ``first_groups``. ``channels`` are those in, in between and out, of a block.
    """

    blocks: tuple[int, int]
    channels: tuple[int, int, int]
    first_taps: tuple[int, ...]
    taps: tuple[int, ...]
    first_groups: int

    @classmethod
    def of(cls, first: Sequence[int], first_groups: int, second: Sequence[int], groups: int) -> Product:
        """Return it for weights ``[O, C / groups, *taps]`` of these shapes."""
        regrouped = first_groups if first_groups % groups == 0 else gcd(first_groups, groups)
        parts = max(regrouped // groups, 1)
        channels = (first[1] * (first_groups // regrouped), first[0] // (groups * parts), second[0] // groups)
        return cls((groups, parts), channels, tuple(first[2:]), tuple(second[2:]), regrouped)

    @property
    def groups(self) -> int:
        """Those of the product."""
        return self.first_groups // self.blocks[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the product's weight."""
        (groups, parts), (channels, _, out) = self.blocks, self.channels
        return groups * out, parts * channels, *self._product_taps

    def weight(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the weight of the product, ``[O, C / groups, *taps]``."""
        channels, between, out = self.channels
        wide, high = prod(self.first_taps), prod(self.taps)
        if wide == high == channels == 1:
            return (self._spread(second, out) * self._spread(first, 1)).sum(3).view(self.shape)
        if high == 1:
            b = self._by_block(second, out, between)
            weight = torch.bmm(b, self._first(first, between, channels * wide))
        elif wide > 1:
            weight = self._convolution(first, second)
        elif out == 1:
            a = self._first(first, between, channels)
            weight = torch.bmm(a.transpose(1, 2), _viewed(second, len(a), between, high))
        else:
            rows = self._rows(second, between)
            weight = torch.bmm(rows, self._first(first, between, channels))
            weight = weight.view(-1, out, high, channels).transpose(2, 3)
        return self._by_channel(weight, channels, self._product_taps)

    def gradients(
        self, first: Tensor, second: Tensor, grad: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of ``first`` and ``second``, each where it is wanted, from that of the product."""
        channels, between, out = self.channels
        wide, high = prod(self.first_taps), prod(self.taps)
        da = db = None
        if wide == high == channels == 1:
            g = _viewed(grad, self.blocks[0], out, self.blocks[1], 1)
            da = (self._spread(second, out) * g).sum(1) if wanted[0] else None
            db = self._spread(first, 1) * g if wanted[1] else None
            return (
                None if da is None else da.view(-1, 1, *self.first_taps),
                None if db is None else db.view(-1, self.blocks[1] * between, *self.taps),
            )
        if wide > 1 and high > 1:
            return self._convolution_gradients(first, second, grad, wanted)
        a = self._first(first, between, channels * wide)
        if high == 1:
            g = self._by_block(grad, out, channels * wide)
            b = self._by_block(second, out, between)
            da = torch.bmm(b.transpose(1, 2), g) if wanted[0] else None
            db = torch.bmm(g, a.transpose(1, 2)) if wanted[1] else None
        elif out == 1:
            g, b = _viewed(grad, len(a), channels, high), _viewed(second, len(a), between, high)
            da = torch.bmm(b, g.transpose(1, 2)) if wanted[0] else None
            db = torch.bmm(a, g) if wanted[1] else None
        else:
            g = self._rows(grad, channels)
            da = torch.bmm(self._rows(second, between).transpose(1, 2), g) if wanted[0] else None
            if wanted[1]:
                db = torch.bmm(g, a.transpose(1, 2)).view(-1, out, high, between).transpose(2, 3)
        return (
            None if da is None else da.view(-1, channels, *self.first_taps),
            None if db is None else _laid_out(self._by_channel(db, between, self.taps), second),
        )

    def carry(self, bias: Tensor, second: Tensor) -> Tensor:
        """Return what the second operator makes of a bias ``[M]`` of the first."""
        _, between, out = self.channels
        b = self._by_block(second, out, between, prod(self.taps)).sum(3)
        carried = torch.bmm(b, bias.reshape(len(b), -1, 1))
        return carried.view(*self.blocks, -1).sum(1).reshape(-1)

    @property
    def _product_taps(self) -> tuple[int, ...]:
        return tuple(s + u - 1 for s, u in zip(self.first_taps, self.taps, strict=True))

    def _first(self, weight: Tensor, *shape: int) -> Tensor:
        """Return ``a[q, m, c, s]``, with the last of these as one where ``shape`` has fewer."""
        return _viewed(weight, self.blocks[0] * self.blocks[1], *shape)

    def _by_block(self, weight: Tensor, out: int, width: int, *taps: int) -> Tensor:
        """Return ``b[q, o, m, u]`` of the second operator, or ``g[q, o, c, t]`` of the product, ``width`` wide."""
        groups, parts = self.blocks
        if parts == 1:
            return _viewed(weight, groups, out, width, *taps)
        return weight.reshape(groups, out, parts, width, *taps).transpose(1, 2).flatten(0, 1)

    def _rows(self, weight: Tensor, width: int) -> Tensor:
        """Return what ``_by_block`` does as matrices ``[q, o * u, m]``."""
        blocks = self._by_block(weight, self.channels[2], width, prod(weight.shape[2:]))
        return blocks.transpose(2, 3).reshape(len(blocks), -1, width)

    def _by_channel(self, blocks: Tensor, width: int, taps: tuple[int, ...]) -> Tensor:
        """Undo ``_by_block``."""
        (groups, parts), out = self.blocks, self.channels[2]
        if parts > 1 and out > 1:
            blocks = blocks.reshape(groups, parts, out, width, *taps).transpose(1, 2)
        return _viewed(blocks, groups * out, parts * width, *taps)

    def _spread(self, weight: Tensor, out: int) -> Tensor:
        """Return a kernel of one tap by groups, channels out, parts, and channels in between."""
        return _viewed(weight, self.blocks[0], out, self.blocks[1], self.channels[1])

    def _images(self, first: Tensor) -> Tensor:
        """Return the first operator as a convolution's input: an image for each channel that comes in."""
        channels, between, _ = self.channels
        a = self._first(first, between, channels, prod(self.first_taps))
        return a.permute(2, 0, 1, 3).reshape(channels, -1, *self.first_taps)

    def _filters(self, second: Tensor) -> Tensor:
        """Return the second one as the weight of a transposed convolution."""
        _, between, out = self.channels
        b = self._by_block(second, out, between, prod(self.taps))
        return b.transpose(1, 2).reshape(-1, out, *self.taps)

    def _convolution(self, first: Tensor, second: Tensor) -> Tensor:
        """Return ``weight[q, o, c, t]``, where both have several taps."""
        blocks = self.blocks[0] * self.blocks[1]
        convolve = _CONV_TRANSPOSE[len(self.taps)]
        images = convolve(self._images(first), self._filters(second), groups=blocks)
        return images.reshape(self.channels[0], blocks, self.channels[2], -1).permute(1, 2, 0, 3)

    def _convolution_gradients(
        self, first: Tensor, second: Tensor, grad: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        channels, between, out = self.channels
        blocks, dimensions = self.blocks[0] * self.blocks[1], len(self.taps)
        once, nothing = [1] * dimensions, [0] * dimensions
        g = self._by_block(grad, out, channels, prod(self._product_taps))
        images, filters, _ = torch.ops.aten.convolution_backward(
            g.permute(2, 0, 1, 3).reshape(channels, -1, *self._product_taps),
            *(self._images(first), self._filters(second), None),
            *(once, nothing, once, True, nothing, blocks),
            [*wanted, False],
        )
        da = db = None
        if wanted[0]:
            da = images.reshape(channels, blocks, between, -1).permute(1, 2, 0, 3)
            da = da.reshape(-1, channels, *self.first_taps)
        if wanted[1]:
            db = filters.reshape(blocks, between, out, -1).transpose(1, 2)
            db = self._by_channel(db, between, self.taps)
        return da, db


def _laid_out(grad: Tensor, like: Tensor) -> Tensor:
    """Return ``grad`` with the strides of ``like``: torch would copy it later, layer by layer."""
    return grad if grad.stride() == like.stride() else torch.empty_like(like).copy_(grad)


def _viewed(weight: Tensor, *shape: int) -> Tensor:
    """Return ``weight`` in another shape: a view where it can be one, by the fewest calls."""
    return weight.view(shape) if weight.is_contiguous() else weight.reshape(shape)
