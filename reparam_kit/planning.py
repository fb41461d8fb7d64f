"""What expanding a model would do, before anything is copied: the branches at each site, their cost, or a reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from reparam_kit import algebra
from reparam_kit.algebra import (
    NORMS,
    Block,
    Chain,
    Expression,
    Geometry,
    describe,
    fit,
    norm_of,
)
from reparam_kit.errors import InputError
from reparam_kit.inputs import Inputs
from reparam_kit.patterns import left_out
from reparam_kit.sites import Site, inspect


@dataclass(frozen=True)
class Plan:
    """What a block becomes at one site: the branches it adds, or the reason why there are none.

    ``extra_macs`` is what they add to a forward pass on the example inputs, in multiply-accumulates: multiplying the
    sum out (``norm="scale"`` and ``"none"``; it does not grow with the batch) or running every branch
    (``"batch"``). None where no example inputs were given.
    """

    site: Site
    chains: tuple[Chain, ...] = ()
    reason: str | None = None
    extra_macs: int | None = None

    @property
    def branches(self) -> list[str]:
        """Each branch that is added, as an expression."""
        return [describe(chain) for chain in self.chains]

    def to_json(self) -> dict[str, Any]:
        """Write the layer in JSON's types, for other programs."""
        site = self.site
        return {
            "name": site.name,
            "kind": site.kind,
            "kernel": site.geometry.weight_shape if site.geometry else None,
            "groups": site.geometry.groups if site.geometry else None,
            "parameters": site.parameters,
            "stride": site.stride,
            "dilation": site.dilation,
            "bias": site.bias,
            "batch_norm": site.batch_norm,
            "calls": site.calls,
            "macs": site.macs,
            "extra_macs": self.extra_macs,
            "branches": self.branches,
            "reason": self.reason,
        }


def plan(
    model: nn.Module,
    block: str | Expression = "dbb",
    norm: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    example_inputs: Inputs | None = None,
    budget: float | None = None,
) -> list[Plan]:
    """Return what ``expand`` with the same arguments would do, for every layer of the model.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 2))
    >>> [(item.site.name, item.branches or item.reason) for item in plan(net, "conv(k) + conv(1)")]
    [('0', ['conv(1)']), ('2', 'linear layer: expanded where include names it')]

    Raises:
        ExpressionError, InputError: as ``expand``, for a wrong argument.
    """
    norm = norm or norm_of(block)
    _ = NORMS[norm]  # refuses one that is not known
    if budget is not None and (example_inputs is None or not 1 < budget < math.inf):
        raise InputError(
            f"budget={budget:g} is a bound on the cost of a step in units of the plain one, above 1 and finite, and "
            "needs example_inputs of the size and batch to train with"
        )
    expression = algebra.block(block)
    sites = inspect(model, example_inputs)
    skipped = left_out({site.name: [site.name] for site in sites}, include, exclude, "layer")
    if include is None:
        linear = [site.name for site in sites if site.kind == "Linear"]
        skipped |= dict.fromkeys(linear, "linear layer: expanded where include names it")
    modules = dict(model.named_modules())
    plans = [
        Plan(site, reason=site.reason or skipped[site.name])
        if site.reason or site.name in skipped
        else _plan_site(site, modules[site.name], expression, norm)
        for site in sites
    ]
    return plans if budget is None else _within(budget, plans)


def cost_ratio(plans: Sequence[Plan]) -> float | None:
    """Estimate the multiply-accumulates of a training step, expanded over plain; None without example inputs.

    It counts the layers alone, forward and backward alike, so a net that spends its time on memory traffic is slowed
    down less by ``norm="scale"`` and more by ``"batch"`` (a BatchNorm for each branch).

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3))
    >>> f"{cost_ratio(plan(net, example_inputs=torch.randn(1, 3, 9, 9))):.2f}"
    '1.20'
    """
    macs = [item.site.macs for item in plans if item.site.macs is not None]
    return 1 + sum(item.extra_macs or 0 for item in plans) / sum(macs) if sum(macs) else None


def nothing_to_expand(plans: Sequence[Plan], block: Block) -> str:
    """Return why none of the plans adds a branch, in one line."""
    if not plans:
        return "the model has no convolution"
    reasons = Counter(item.reason for item in plans)
    text = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return f"none of the {len(plans)} layers can be expanded with {block}: {text}"


def _plan_site(site: Site, layer: nn.Module, block: Block, norm: str) -> Plan:
    assert site.geometry is not None
    if NORMS[norm].runs and site.batch_reason is not None:
        return Plan(site, reason=site.batch_reason)
    chains, misfits = fit(block, site.geometry, norm)
    if not chains:
        return Plan(site, reason="; ".join(misfits) or "the block adds no branch")
    return Plan(site, tuple(chains), extra_macs=_extra_macs(site, layer, chains, norm))


def _extra_macs(site: Site, layer: nn.Module, chains: Sequence[Chain], norm: str) -> int | None:
    if site.positions is None or site.calls is None:
        return None
    if not NORMS[norm].runs:
        kernel = 2 * site.parameters  # a branch is scaled, and added
        return site.calls * sum(_multiply_out_macs(chain) + kernel for chain in chains)
    # What comes before the last factor runs before the stride.
    stride = 1 if isinstance(layer, _ConvTransposeNd) else prod(site.stride)
    return sum(
        site.positions
        * (1 if i == len(chain) - 1 else stride)
        * (prod(shape.weight_shape) + shape.out_channels)
        for chain in chains
        for i, (_, shape) in enumerate(chain)
    )


def _multiply_out_macs(chain: Chain) -> int:
    """Return the multiply-accumulates of ``first >> then`` for each factor in turn, as ``Kernel.__rshift__`` computes
    it.
    """
    macs, first = 0, chain[0].shape
    for _, then in chain[1:]:
        together = gcd(first.groups, then.groups)
        groups = together if first.groups % then.groups else first.groups
        macs += prod(then.weight_shape) * (first.in_channels // groups) * prod(first.taps)
        taps = tuple(a + b - 1 for a, b in zip(first.taps, then.taps, strict=True))
        first = Geometry(first.in_channels, then.out_channels, taps, together)
    return macs


def _within(budget: float, plans: list[Plan]) -> list[Plan]:
    """Return as many sites as fit, the cheapest first."""
    room = (budget - 1) * sum(item.site.macs or 0 for item in plans)
    chosen: dict[int, Plan] = {}
    order = sorted((item.extra_macs, i) for i, item in enumerate(plans) if item.extra_macs is not None)
    for extra, i in order:
        if extra > room:
            chosen[i] = replace(
                plans[i], chains=(), extra_macs=None, reason=f"does not fit into budget={budget:g}"
            )
        room -= extra
    return [chosen.get(i, item) for i, item in enumerate(plans)]
