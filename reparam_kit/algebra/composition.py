"""Kernels of many layers composed at once, and the gradient of every factor from those of the kernels.

A kernel is ``deployed + sum_b (k_1 >> k_2 >> ...)``, where each ``k_i`` may be scaled. Layers of one form stand side by
side, which is one operator of all their groups: what stands at the same place is concatenated, and what composes one
composes all. Back through a chain, with ``p_i = p_(i-1) >> k_i``, the gradient of ``p_i`` gives those of ``p_(i-1)``
and ``k_i`` (see ``product``). For that, nothing is kept but the parameters; kernels and products are made again, all
but the last product, which is the most of the work. Only of layers that stand side by side, which are small, the
kernels are kept, since launches are what they cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import rshift
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reparam_kit.algebra.factors import Fixed
from reparam_kit.algebra.kernel import Geometry, Kernel, part_of, series_gradients


class Place(NamedTuple):
    """A factor of a chain, as layers of one form have it in common."""

    groups: int
    fixed: tuple[Fixed, Geometry] | None
    """The factor and its shape, if it has no parameter."""
    scaled: bool
    """Whether a factor for each channel follows."""


class Layout(NamedTuple):
    """What tensors of several layers need to have in common to stand side by side."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    trains: bool


class Form(NamedTuple):
    """What layers that are composed together have in common.

    ``groups`` are those of the deployed kernel; the tensors are that kernel, and then those of the chains.
    """

    groups: int
    chains: tuple[tuple[Place, ...], ...]
    layouts: tuple[Layout, ...]

    @property
    def trains(self) -> bool:
        return any(layout.trains for layout in self.layouts)

    def fixed(self, count: int) -> list[Kernel]:
        """Return the factors without parameters, as ``count`` layers side by side have them."""
        like = self.layouts[0]
        places = [place.fixed for chain in self.chains for place in chain if place.fixed is not None]
        return [_fixed(*place, count, like.dtype, like.device) for place in places]


class Parts(NamedTuple):
    """What a layer is composed of."""

    form: Form
    tensors: tuple[Tensor, ...]

    @classmethod
    def of(cls, groups: int, chains: Sequence[tuple[Place, ...]], tensors: Sequence[Tensor]) -> Parts:
        layouts = (Layout(t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors)
        return cls(Form(groups, tuple(chains), tuple(layouts)), tuple(tensors))


class Composed:
    """A layer whose kernel is composed before it runs."""

    def owned(self) -> list[Tensor]:
        """Return all tensors that its kernel depends on."""
        raise NotImplementedError

    def parts(self) -> Parts | None:
        """Return what it is composed of now; None: that is left to autograd."""
        raise NotImplementedError


def compose(layers: Sequence[Parts]) -> tuple[Tensor, ...]:
    """Return the kernels of layers of one form, ``[O, C / groups, *taps]`` each."""
    tensors = [tensor for same in zip(*(layer.tensors for layer in layers), strict=True) for tensor in same]
    with _own_precision(tensors[0]):
        out: tuple[Tensor, ...] = _Composition.apply(layers[0].form, len(layers), *tensors)  # type: ignore[no-untyped-call]
    return out


def versions_of(tensors: Sequence[Tensor]) -> list[int]:
    """Return how often each has been written to."""
    return [tensor._version for tensor in tensors]


def require_unchanged(tensors: Sequence[Tensor], versions: list[int]) -> None:
    """Raise RuntimeError, as torch does, where a tensor has been written to since ``versions`` were theirs."""
    if versions != versions_of(tensors):
        raise RuntimeError(
            "a parameter of an expanded layer has been modified by an inplace operation since the forward pass"
        )


def _own_precision(like: Tensor) -> torch.autocast:
    """Keep autocast out: it is for activations, and would round the weights."""
    return torch.autocast(like.device.type, enabled=False)


class _Composition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, form: Form, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        # Not save_for_backward: two losses may share a kernel, and each goes back through it.
        ctx.form, ctx.count, ctx.tensors = form, count, tensors
        ctx.versions = versions_of(tensors)
        ctx.set_materialize_grads(False)
        ctx.chains = []
        slots = _side_by_side(tensors, count)
        total = next(slots) if count > 1 else next(slots).clone()
        for chain in _chains(form, count, slots):
            if count > 1:
                ctx.chains.append(chain)
            *_, product = accumulate((factor.kernel for factor in chain), rshift)
            product.add_to(total, form.groups * count)
        return total.split_with_sizes([len(total) // count] * count)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        require_unchanged(ctx.tensors, ctx.versions)
        with _own_precision(ctx.tensors[0]):
            return None, None, *_backward(ctx, grads)


def _backward(ctx: Any, grads: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Return the gradients of ``ctx.tensors``; a layer whose kernel was not used, and so has none, gives none."""
    form: Form = ctx.form
    layers: int = ctx.count
    used = [i for i, grad in enumerate(grads) if grad is not None]
    found: list[Tensor | None] = [None] * len(ctx.tensors)
    if not used:
        return found
    if form.layouts[0].trains:
        found[:layers] = grads
    starts = range(layers, len(found), layers)
    chains: Iterable[list[_Factor]] = ctx.chains
    if (
        len(used) < layers or layers == 1 or torch.is_grad_enabled()
    ):  # gradients of gradients pass through the tensors
        slots = _side_by_side([ctx.tensors[start + i] for start in starts for i in used], len(used))
        chains = _chains(form, len(used), slots)
    (grad,) = _side_by_side([grad for grad in grads if grad is not None], len(used))
    gradients = (one for chain in chains for one in _gradients(chain, grad, form.groups * len(used)))
    for start, gradient in zip(starts, gradients, strict=True):
        if gradient is not None:
            sizes = [len(gradient) // len(used)] * len(used)
            for i, one in zip(used, gradient.split_with_sizes(sizes), strict=True):
                found[start + i] = one
    return found


class _Factor(NamedTuple):
    """What stands at one place of a chain, of layers side by side: ``kernel``, which may be ``weight`` scaled."""

    kernel: Kernel
    weight: Tensor
    trains: bool | None
    """Whether ``weight`` trains; None: it is no parameter."""
    column: Tensor | None
    """The scale, as a factor of ``weight``."""
    scale_trains: bool

    @property
    def wanted(self) -> bool:
        return bool(self.trains) or self.scale_trains

    def gradients(self, grad: Tensor | None) -> Iterator[Tensor | None]:
        """Yield the gradients of its tensors from that of its kernel."""
        if self.trains is not None:
            of_weight = grad
            if grad is not None and self.column is not None and self.trains:
                of_weight = grad * self.column
            yield of_weight if self.trains else None
        if self.column is not None:
            of_scale = None
            if grad is not None and self.scale_trains:
                of_scale = (grad * self.weight).sum(tuple(range(1, grad.dim())))
            yield of_scale


def _side_by_side(tensors: Sequence[Tensor], count: int) -> Iterator[Tensor]:
    """Yield the tensors of ``count`` layers, one place after the other."""
    for start in range(0, len(tensors), count):
        yield tensors[start] if count == 1 else torch.cat([*tensors[start : start + count]])


def _chains(form: Form, count: int, slots: Iterator[Tensor]) -> Iterator[list[_Factor]]:
    """Yield the chains of ``count`` layers side by side, of the tensors that follow the deployed kernel."""
    like, *layouts = form.layouts
    trains = iter([layout.trains for layout in layouts])
    for chain in form.chains:
        factors = []
        for place in chain:
            if place.fixed is None:
                kernel, trained = Kernel(next(slots), place.groups * count), next(trains)
            else:
                kernel, trained = _fixed(*place.fixed, count, like.dtype, like.device), None
            weight, column, scale_trains = kernel.weight, None, False
            if place.scaled:
                column, scale_trains = kernel.column(next(slots)), next(trains)
                kernel = Kernel(weight * column, kernel.groups)
            factors.append(_Factor(kernel, weight, trained, column, scale_trains))
        yield factors


@lru_cache(maxsize=256)
def _fixed(factor: Fixed, shape: Geometry, count: int, dtype: torch.dtype, device: torch.device) -> Kernel:
    with torch.inference_mode(False):
        kernel = factor.kernel(shape, torch.zeros((), dtype=dtype, device=device))
        ones = [1] * (kernel.weight.dim() - 1)
        return Kernel(kernel.weight.repeat(count, *ones), kernel.groups * count)


def _gradients(chain: list[_Factor], grad: Tensor, groups: int) -> list[Tensor | None]:
    """Return the gradients of the tensors of a chain, in their order, from that of a sum of ``groups`` groups."""
    kernels = [factor.kernel for factor in chain]
    products = list(accumulate(kernels[:-1], rshift))
    found: list[Tensor | None] = []
    if products:
        last = products[-1].times(kernels[-1])
        of_product: Tensor | None = part_of(grad, groups, last.groups // groups, last.shape)
    else:
        own = kernels[0]
        of_product = part_of(grad, groups, own.groups // groups, own.weight.shape)
        if chain[0].column is None:
            of_product = of_product.clone()  # the deployed kernel's gradient is the same memory
    for i, factor in reversed(list(enumerate(chain))):
        before, own_grad = None, of_product
        if i > 0 and of_product is not None:
            wanted = (any(earlier.wanted for earlier in chain[:i]), factor.wanted)
            before, own_grad = series_gradients(products[i - 1], kernels[i], of_product, wanted)
        found = [*factor.gradients(own_grad), *found]
        of_product = before
    return found
