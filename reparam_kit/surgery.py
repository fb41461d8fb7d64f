"""Expand and fold: convolutions of a module tree replaced by sums of branches, and put back.

Both work on a deep copy in which the convolutions are substituted while copying, so every reference to one (a module
called at several places, a Python list, an fx graph) leads to its stand-in, and the copy never holds both.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from reparam_kit import algebra
from reparam_kit.algebra import NORMS, Block, Chain, Expanded, Expression, Norm, describe, fit
from reparam_kit.calibration import calibrate
from reparam_kit.errors import InputError, NothingToDoError
from reparam_kit.sites import Site, inspect

Model = TypeVar("Model", bound=nn.Module)
Inputs = Tensor | tuple[Tensor, ...]

_STOCK_FORWARDS = {nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward}


@dataclass(frozen=True)
class Plan:
    """What a block comes to at one site: the branches it adds, or the reason why there are none."""

    site: Site
    chains: tuple[Chain, ...] = ()
    reason: str | None = None

    @property
    def branches(self) -> list[str]:
        """Each branch that is added, as an expression."""
        return [describe(chain) for chain in self.chains]


def plan(
    model: nn.Module,
    block: str | Expression = "dbb",
    norm: Norm = "scale",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> list[Plan]:
    """What ``expand`` with the same arguments would do, for every convolution of the model.

    Raises as ``expand`` does for a wrong argument.
    """
    if norm not in NORMS:
        raise InputError(f"norm={norm!r}: choose one of {', '.join(NORMS)}")
    expression = algebra.block(block)
    sites = inspect(model)
    names = [site.name for site in sites]
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                known = f"{', '.join(names[:3])} ..." if names else "none: the model has no convolution"
                raise InputError(f"{option}={pattern!r} matches no convolution; their names are {known}")
    modules = dict(model.named_modules())
    return [
        _plan_site(site, modules.get(site.name, model), expression, norm, include, exclude) for site in sites
    ]


def expand(
    model: Model,
    block: str | Expression = "dbb",
    norm: Norm = "scale",
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    calibration: Iterable[Inputs] | None = None,
) -> Model:
    """A copy of ``model`` in which every site is a sum of branches that computes the same function, to the bit.

    Args:
        model: any module; it is not changed.
        block: a preset's name ("dbb", "repvgg", ...), an expression, or its text ("conv(k) + conv(1) >> avg(k)").
        norm: "scale" multiplies the sum out before each step and runs one convolution; "batch" gives every factor a
            BatchNorm and runs every branch, as the papers do; "none" has neither.
        include: patterns (as in fnmatch) of the convolutions to expand; None: all.
        exclude: patterns of those to leave alone.
        calibration: batches of inputs, each a tensor or a tuple of arguments. With them the branches start in units
            of the outputs seen (``"scale"``), or with running statistics of the data (``"batch"``).

    Raises:
        ExpressionError: the block is unknown or does not parse.
        InputError: unknown norm, or a pattern that matches nothing.
        NothingToDoError: no convolution can be expanded; the message says why.
    """
    expression = algebra.block(block)
    plans = plan(model, expression, norm, include, exclude)
    sites = [item.site for item in plans if item.reason is None]
    if not sites:
        raise NothingToDoError(_nothing(plans, expression))
    modules = dict(model.named_modules())
    stand_ins = {site: Expanded.__new__(Expanded) for site in sites}
    memo: dict[int, object] = {id(modules[site.name]): stand_in for site, stand_in in stand_ins.items()}
    for site, stand_in in stand_ins.items():
        plain = cast("_ConvNd", modules[site.name])
        base = _fill(_blank(plain), plain, memo)
        stand_in.__init__(base, expression, norm, site.name, site.batch_norm)  # type: ignore[misc]
    student = copy.deepcopy(model, memo)
    if calibration is not None:
        calibrate(student, calibration)
    return student


def fold(model: Model) -> Model:
    """A copy of an expanded model with every sum multiplied out, in float64, into its convolution.

    Class, module tree, state_dict keys and hooks are those of the model that was expanded; the mode it is in does not
    matter and ``model`` can be trained further. With ``norm="batch"`` the fold is what the model does in eval mode.

    Raises:
        NothingToDoError: the model has no expanded convolution.
    """
    expanded = {name: module for name, module in model.named_modules() if isinstance(module, Expanded)}
    if not expanded:
        raise NothingToDoError("the model has no expanded convolution: expand it first")
    plain_of = {module: _blank(module.base) for module in expanded.values()}
    memo: dict[int, object] = {}
    for module, plain in plain_of.items():
        memo[id(module)] = memo[id(module.base)] = plain
    for module, plain in plain_of.items():
        _fill(plain, module.base, memo)
    folded = copy.deepcopy(model, memo)
    for name, module in expanded.items():
        shift = module.fold_into(plain_of[module])
        if shift is not None:
            root = name.removesuffix(module.site)
            norm = cast("_BatchNorm", folded.get_submodule(f"{root}{module.shift_into}"))
            assert norm.running_mean is not None
            norm.running_mean.copy_(norm.running_mean.double() - shift)
    return folded


def _blank(module: Model) -> Model:
    """An instance to be filled once all references to it can be told."""
    return module.__class__.__new__(module.__class__)


def _fill(copied: Model, module: Model, memo: dict[int, object]) -> Model:
    """Make ``copied`` a deep copy of ``module``, where ``memo`` holds what each substituted module becomes."""
    copied.__dict__ = copy.deepcopy(module.__dict__, memo)
    return copied


def _plan_site(
    site: Site,
    module: nn.Module,
    block: Block,
    norm: Norm,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
) -> Plan:
    if site.reason is not None or site.geometry is None:
        return Plan(site, reason=site.reason)
    if include is not None and not any(fnmatchcase(site.name, pattern) for pattern in include):
        return Plan(site, reason="not included")
    if any(fnmatchcase(site.name, pattern) for pattern in exclude or ()):
        return Plan(site, reason="excluded")
    if norm == "batch":
        if type(module).forward not in _STOCK_FORWARDS:
            return Plan(
                site,
                reason="its class has a forward of its own, which branches with a BatchNorm cannot follow",
            )
        if not site.bias and site.batch_norm is None:
            return Plan(
                site, reason="neither a bias nor a BatchNorm of its own to take up the branches' shift"
            )
    chains, misfits = fit(block, site.geometry, norm)
    return (
        Plan(site, tuple(chains))
        if chains
        else Plan(site, reason="; ".join(misfits) or "the block adds no branch")
    )


def _nothing(plans: Sequence[Plan], block: Block) -> str:
    if not plans:
        return "the model has no convolution"
    reasons = Counter(item.reason for item in plans)
    text = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return f"none of the {len(plans)} convolutions can be expanded with {block}: {text}"
