"""A chain of factors at one site: how it fits, what it trains, and the one kernel that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from reparam_kit.algebra.expression import Block, Term
from reparam_kit.algebra.factors import Conv, Factor, Fixed, Misfit
from reparam_kit.algebra.kernel import Geometry, Kernel, span
from reparam_kit.algebra.layers import correlate

Norm = Literal["scale", "batch", "none"]
NORMS: tuple[Norm, ...] = ("scale", "batch", "none")

_BATCH_NORM = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


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
    """The chain as an expression."""
    return str(Term(tuple(factor for factor, _ in chain)))


def fit(block: Block, site: Geometry, norm: Norm) -> tuple[list[Chain], list[str]]:
    """The branches that ``block`` adds at ``site``, and the reason of each of its terms that adds none.

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
        elif norm == "none" and all(isinstance(link.factor, Fixed) for link in chain):
            reasons.append(f"{term} has nothing to train without a norm")
        else:
            chains += [chain] * (term.copies - (key == deployed))
        seen.add(key)
    return chains, reasons


class Branch(nn.Module):
    """A chain with its parameters. Every branch starts as the zero operator, in one place only.

    The last thing that a branch trains starts at zero (its ``scale``, its last BatchNorm's weight, or its last
    factor), all before it at random. So the deployed function is untouched, to the bit and in train mode too; the
    gradient of what starts at zero is alive, and soon wakes the rest.

    With ``norm="scale"`` the branch ends in a factor per output channel, in units of the deployed kernel: at
    ``scale = 1`` each channel's kernel has the norm of the deployed one, on average over random starts. With
    ``"batch"`` every factor is followed by a BatchNorm, as in the papers.

    Args:
        chain: what ``fit`` returned.
        norm: what the output passes before the sum.
        deployed: kernel of the site, ``[O, C / groups, *taps]``; gives dtype and device.
    """

    def __init__(self, chain: Chain, norm: Norm, deployed: Tensor) -> None:
        super().__init__()
        self.chain = chain
        self.norm = norm
        # What comes behind the last factor that mixes channels works on each of the site's outputs by itself, so a
        # scale of the outputs may as well stand there, where the kernel is smaller.
        self._last = max((i for i, link in enumerate(chain) if link.factor.mixes), default=len(chain) - 1)
        for i, (factor, shape) in enumerate(chain):
            start = factor.start(shape, deployed)
            parameter = None if start is None else nn.Parameter(start)
            self.register_parameter(f"factor{i}", parameter)
        if norm == "scale":
            self.scale = nn.Parameter(deployed.new_zeros(deployed.shape[0]))
            norms = torch.linalg.vector_norm(deployed.flatten(1), dim=1)
            self.rescale(norms / prod(factor.gain(shape) for factor, shape in chain))
        elif norm == "batch":
            layer = _BATCH_NORM[deployed.dim() - 2]
            self.norms = nn.ModuleList(layer(shape.out_channels) for _, shape in chain).to(deployed)
            nn.init.zeros_(cast("_BatchNorm", self.norms[-1]).weight)
        else:
            nn.init.zeros_(list(self.parameters())[-1])

    @property
    def taps(self) -> tuple[int, ...]:
        """Extent of the whole chain on the site's tap grid."""
        return span([shape.taps for _, shape in self.chain])

    def product(self, dtype: torch.dtype | None = None, scale: Tensor | None = None) -> Kernel:
        """The chain multiplied out, with a ``scale`` of its outputs; with ``norm="batch"`` as it is in eval mode."""
        like = next(self.parameters()).new_empty((), dtype=dtype)
        total: Kernel | None = None
        for i, (factor, shape) in enumerate(self.chain):
            parameter = getattr(self, f"factor{i}")
            kernel = factor.kernel(None if parameter is None else parameter.to(dtype), shape, like)
            if self.norm == "batch":
                kernel = kernel.scale(*affine(cast("_BatchNorm", self.norms[i]), dtype))
            if i == self._last and scale is not None:
                kernel = kernel.scale(scale)
            total = kernel if total is None else total >> kernel
        assert total is not None
        return total

    def kernel(self, dtype: torch.dtype | None = None) -> Kernel:
        """The one kernel that the branch stands for, in ``dtype`` (default: that of its parameters)."""
        return self.product(dtype, self.scale.to(dtype) if self.norm == "scale" else None)

    def forward(self, x: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
        """Run the chain factor by factor on an input ``[N, C, ...]`` that is padded already; the last one strides.

        For ``norm="batch"``: the others are multiplied out instead.
        """
        last = len(self.chain) - 1
        for i, (factor, shape) in enumerate(self.chain):
            kernel = factor.kernel(getattr(self, f"factor{i}"), shape, x)
            x = self.norms[i](correlate(x, kernel, stride if i == last else (1,) * len(stride), dilation))
        return x

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


def affine(norm: _BatchNorm, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """``(factor, shift)``, each ``[C]``, of a BatchNorm in eval mode: ``y -> factor * y + shift``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = torch.rsqrt(norm.running_var.to(dtype) + norm.eps)
    shift = -norm.running_mean.to(dtype) * factor
    if norm.affine:
        factor, shift = factor * norm.weight.to(dtype), shift * norm.weight.to(dtype) + norm.bias.to(dtype)
    return factor, shift


def _is_identity(link: Link) -> bool:
    return prod(link.shape.taps) == 1 and not link.factor.mixes


def _times(taps: tuple[int, ...]) -> str:
    return "x".join(map(str, taps))
