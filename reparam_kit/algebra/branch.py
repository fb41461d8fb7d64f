"""A chain of factors at one site: how it fits, what it trains, and the one kernel that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from reparam_kit.algebra.composition import Place
from reparam_kit.algebra.expression import Block, Factor, Term
from reparam_kit.algebra.factors import Conv, Fixed, Misfit, Trained
from reparam_kit.algebra.kernel import Geometry, Kernel, span
from reparam_kit.algebra.layers import correlate
from reparam_kit.algebra.stock import has_hooks
from reparam_kit.registry import Registry


class Link(NamedTuple):
    """A factor with the shape that it takes at a site."""

    factor: Factor
    shape: Geometry


Chain = tuple[Link, ...]


def resolve(factors: Sequence[Factor], site: Geometry) -> Chain:
    """Give each factor of a chain its shape at ``site``. Raises Misfit with the reason where the chain cannot stand."""
    text = Term(tuple(factors))
    taps = [factor.taps(site) for factor in factors]
    if any(have > room for have, room in zip(span(taps), site.taps, strict=True)):
        raise Misfit(f"{text} spans {_times(span(taps))} taps, the site has {_times(site.taps)}")
    last = max((i for i, factor in enumerate(factors) if factor.mixes), default=None)
    links = []
    channels = site.in_channels
    for i, factor in enumerate(factors):
        out = site.out_channels if i == last else factor.out_channels(channels, site)
        groups = site.groups if factor.mixes else channels
        links.append(Link(factor, Geometry(channels, out, taps[i], groups)))
        channels = out
    if channels != site.out_channels:
        raise Misfit(f"{text} gives {channels} channels, the site gives {site.out_channels}")
    needed = [link for link in links if not (isinstance(link.factor, Fixed) and _is_identity(link))]
    return tuple(needed or links[:1])


def describe(chain: Chain) -> str:
    """Return the chain as an expression."""
    return str(Term(tuple(factor for factor, _ in chain)))


def fit(block: Block, site: Geometry, norm: str) -> tuple[list[Chain], list[str]]:
    """Return the branches that ``block`` adds at ``site``, and the reason of each of its terms that adds none.

    The first plain convolution of the site's own size is the deployed kernel itself. Terms that come to the same at
    this site are taken once: at a 1x1 site ``conv(1)`` and ``conv(k)`` are one branch, at which copies do no more
    than rescale the learning rate.
    """
    deployed = ((Conv, site),)
    chains: list[Chain] = []
    reasons: list[str] = []
    seen: set[tuple[tuple[type[Factor], Geometry], ...]] = set()
    for term in block.terms:
        try:
            chain = resolve(term.chain, site)
        except Misfit as misfit:
            reasons.append(str(misfit))
            continue
        key = tuple((type(link.factor), link.shape) for link in chain)
        if key in seen:
            reasons.append(f"{term} is the same here as another branch")
        elif not NORMS[norm].trains(chain):
            reasons.append(f"{term} has nothing to train without a norm")
        else:
            chains += [chain] * (term.copies - (key == deployed))
        seen.add(key)
    return chains, reasons


class Branch(nn.Module):
    """A chain with its parameters, and the base of all norms: what its output passes before the sum.

    A norm is a class that is given a name (``class Scaled(Branch, norm="scale")``). Every branch starts as the zero
    operator: the last thing that it trains starts at zero, all before it at random. So the deployed function is
    untouched, to the bit and in train mode too; the gradient of what starts at zero is alive, and soon wakes the rest.

    Args:
        chain: what ``fit`` returned.
        deployed: kernel of the site, ``[O, C / groups, *taps]``; gives dtype and device.
    """

    norm: ClassVar[str]
    runs: ClassVar[bool] = False
    """Whether every branch is convolved by itself; else the sum is multiplied out before each call."""
    shifts: ClassVar[bool] = False
    """Whether a bias or a BatchNorm of the site has to take up a shift at folding. Such a norm runs, too."""
    measured: ClassVar[bool] = False
    """Whether calibration brings the product to the standard deviation of the deployed output."""

    def __init_subclass__(cls, norm: str) -> None:
        cls.norm = norm
        NORMS.add(norm, cls)

    def __init__(self, chain: Chain, deployed: Tensor) -> None:
        super().__init__()
        self.chain = chain
        # What comes behind the last factor that mixes channels works on each of the site's outputs by itself, so a
        # scale of the outputs may as well stand there, where the kernel is smaller.
        self._last = max((i for i, link in enumerate(chain) if link.factor.mixes), default=len(chain) - 1)
        for i, (factor, shape) in enumerate(chain):
            start = nn.Parameter(factor.start(shape, deployed)) if isinstance(factor, Trained) else None
            self.register_parameter(f"factor{i}", start)

    @staticmethod
    def trains(chain: Chain) -> bool:
        """Return whether a branch of this norm has anything to train."""
        return True

    def behind(self, i: int, dtype: torch.dtype | None) -> tuple[Tensor, Tensor | None] | None:
        """Give factor and shift, each ``[C]``, of what follows factor ``i`` in eval mode; None: nothing does."""
        return None

    def normalised(self, i: int, x: Tensor) -> Tensor:
        """Apply what follows factor ``i`` to its output ``x``, in the mode that the branch is in."""
        return x

    def changed(self) -> str | None:
        """Return what has been done to the branch that a fold could not hold; None: nothing."""
        return "one has hooks" if has_hooks(self) or "forward" in vars(self) else None

    @property
    def taps(self) -> tuple[int, ...]:
        """Extent of the whole chain on the site's tap grid."""
        return span([shape.taps for _, shape in self.chain])

    def product(self) -> Kernel:
        """Multiply the chain out, without the norm."""
        like = next(self.parameters())
        return _in_series([self._factor(i, like) for i in range(len(self.chain))])

    def kernel(self, dtype: torch.dtype | None = None) -> Kernel:
        """Give the one kernel that the branch stands for in eval mode, in ``dtype`` (default: its parameters')."""
        like = next(self.parameters()).new_empty((), dtype=dtype)
        kernels = []
        for i in range(len(self.chain)):
            kernel, behind = self._factor(i, like, dtype), self.behind(i, dtype)
            kernels.append(kernel if behind is None else kernel.scale(*behind))
        return _in_series(kernels)

    def places(self) -> tuple[tuple[Place, ...], list[Tensor]] | None:
        """Return the places of the chain, and the tensors that stand in them.

        None: a kernel is more than a parameter, or what follows it more than a scale, so that autograd has to know it.
        """
        places, tensors = [], []
        for i, (factor, shape) in enumerate(self.chain):
            scale, shift = self.behind(i, None) or (None, None)
            if shift is not None or not (
                scale is None or any(scale is own for own in self._parameters.values())
            ):
                return None
            if isinstance(factor, Trained):
                parameter = getattr(self, f"factor{i}")
                kernel = factor.kernel(parameter, shape)
                if (
                    kernel.weight is not parameter
                    or kernel.bias is not None
                    or parameter.shape != shape.weight_shape
                ):
                    return None
                places.append(Place(kernel.groups, None, scale is not None))
                tensors.append(parameter)
            elif isinstance(factor, Fixed) and vars(factor).keys() <= factor.__dataclass_fields__.keys():
                places.append(Place(shape.in_channels, (factor, shape), scale is not None))
            else:  # factors that look equal may not be
                return None
            if scale is not None:
                tensors.append(scale)
        return tuple(places), tensors

    def forward(self, x: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
        """Run the chain factor by factor on an input ``[N, C, ...]`` that is padded already; the last one strides."""
        last = len(self.chain) - 1
        for i in range(len(self.chain)):
            step = stride if i == last else (1,) * len(stride)
            x = self.normalised(i, correlate(x, self._factor(i, x), step, dilation))
        return x

    def _factor(self, i: int, like: Tensor, dtype: torch.dtype | None = None) -> Kernel:
        factor, shape = self.chain[i]
        if isinstance(factor, Trained):
            return factor.kernel(getattr(self, f"factor{i}").to(dtype), shape)
        if isinstance(factor, Fixed):
            return factor.kernel(shape, like)
        raise TypeError(f"{type(factor).__name__}: derive a factor from Trained or Fixed")

    def rescale(self, factor: Tensor) -> None:
        """Multiply the product by ``factor`` ``[O]`` where that is finite and positive, in place.

        The last convolution that gives the site's channels takes it up; a branch without one stays as it is.
        """
        for i, (_, shape) in reversed(list(enumerate(self.chain))):
            parameter = getattr(self, f"factor{i}")
            if parameter is not None and shape.out_channels == factor.numel():
                usable = torch.where(factor.isfinite() & (factor > 0), factor, 1)
                with torch.no_grad():
                    parameter.mul_(usable.reshape(-1, *[1] * (parameter.dim() - 1)))
                return

    def extra_repr(self) -> str:
        return f"{describe(self.chain)}, norm={self.norm}"


NORMS: Registry[type[Branch]] = Registry("norm", "reparam_kit.algebra.norms", "reparam_kit.norms")
"""Every norm by its name."""


def _in_series(kernels: Sequence[Kernel]) -> Kernel:
    total, *rest = kernels
    for kernel in rest:
        total = total >> kernel
    return total


def _is_identity(link: Link) -> bool:
    return prod(link.shape.taps) == 1 and not link.factor.mixes


def _times(taps: tuple[int, ...]) -> str:
    return "x".join(map(str, taps))
