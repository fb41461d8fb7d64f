"""A BatchNorm put back, for training only, behind convolutions whose own was folded into them at export.

It starts as the identity: with the mean ``m`` and variance ``v`` of the convolution's output on the user's data,
``weight = sqrt(v + eps)`` and ``bias = m`` undo in eval mode what the statistics do. In train mode it normalises as
the lost one did. Folding multiplies it into the convolution's weight and bias again.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from reparam_kit.algebra import (
    Expanded,
    Kernel,
    Layer,
    affine,
    by_channel,
    has_own_forward,
    to_kernel,
    to_weight,
)
from reparam_kit.calibration import Moments
from reparam_kit.errors import InputError, NothingToDoError
from reparam_kit.sites import Site, inspect
from reparam_kit.sites.find_flow import Inputs
from reparam_kit.sites.flow import untouched
from reparam_kit.sites.patterns import left_out
from reparam_kit.substitution import StandIn, with_stand_ins

Model = TypeVar("Model", bound=nn.Module)


class Restored(StandIn):
    """``conv`` (the deployed convolution, or its expansion), then ``norm``.

    Attributes that this class lacks are those of ``conv``. ``site`` is the name of the convolution in the deployed
    model.
    """

    HELD = "conv"

    conv: _ConvNd | Expanded
    norm: _BatchNorm

    def __init__(self, conv: _ConvNd, site: str) -> None:
        super().__init__()
        self.conv = conv
        # Statistics in half precision would overflow, or stand still.
        dtype = torch.promote_types(conv.weight.dtype, torch.float32)
        norm = getattr(nn, f"BatchNorm{len(conv.kernel_size)}d")(conv.out_channels)
        self.norm = norm.to(conv.weight.device, dtype)
        self.site = site
        self.train(conv.training)

    @property
    def base(self) -> Layer:
        """The deployed convolution, expanded or not."""
        return self.conv.base if isinstance(self.conv, Expanded) else self.conv

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = self.norm(self.conv(*args, **kwargs))
        return out

    def calibrate(self, mean: Tensor, variance: Tensor) -> None:
        """Take over statistics of the convolution's output, each ``[O]`` in float64, and undo them, in place."""
        norm = self.norm
        dtype = norm.weight.dtype
        # The variance is taken from the rounded weight, not the reverse, so that their quotient is 1 to less than
        # half a unit in the last place and an untrained fold returns every bit of the kernel. Hence rounding up.
        weight = ((variance + norm.eps).sqrt() * (1 + 2 * torch.finfo(dtype).eps)).to(dtype)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        with torch.no_grad():
            norm.weight.copy_(weight)
            norm.running_var.copy_(weight.double().square() - norm.eps)
            norm.running_mean.copy_(mean)
            norm.bias.copy_(norm.running_mean)

    def fold_into(self, plain: Layer) -> None:
        """Write convolution and BatchNorm, multiplied out in float64 and rounded once, into ``plain``."""
        with torch.no_grad():
            base = self.base
            if isinstance(self.conv, Expanded):
                kernel = self.conv.multiply_out(torch.float64)
            else:
                kernel = to_kernel(base, base.weight.double())
            assert base.bias is not None
            assert plain.bias is not None
            bias = base.bias.double() if kernel.bias is None else base.bias.double() + kernel.bias
            total = Kernel(kernel.weight, kernel.groups, bias).scale(*affine(self.norm, torch.float64))
            plain.weight.copy_(to_weight(plain, total))
            plain.bias.copy_(cast("Tensor", total.bias))

    def fuse(self) -> Layer:
        """The folded convolution, for ``timm.utils.reparameterize_model``, which asks each module for it."""
        plain = copy.deepcopy(self.base)
        self.fold_into(plain)
        return plain


def restore_bn(
    model: Model,
    calibration: Iterable[Inputs],
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> Model:
    """A copy of ``model`` in which convolutions have a BatchNorm behind them again, which ``fold`` takes away.

    In eval mode the copy computes what ``model`` does, to rounding. The running statistics are the mean and the
    variance of each convolution's output over all of ``calibration``. Expand the copy, not the other way about; what
    was the convolution ``stem`` is ``stem.conv`` and ``stem.norm`` in it.

    Left without: convolutions that ``expand`` would refuse, those with a BatchNorm of their own, those without a bias
    (the deployed net has no place for the shift), those whose class has a forward of its own (such as weight
    standardisation, which a scale does not pass), and those that ``calibration`` does not reach.

    Args:
        model: any module; it is not changed, but run in eval mode.
        calibration: batches of inputs, each a tensor or a tuple of arguments.
        include: patterns (as in fnmatch) of the convolutions to give a BatchNorm; None: all.
        exclude: patterns of those to leave alone.

    Raises:
        InputError: a pattern that matches nothing; no batch; an output that is not finite.
        NothingToDoError: no convolution can have a BatchNorm put back; the message says why.
    """
    batches = iter(calibration)
    first = next(batches, None)
    if first is None:
        raise InputError("calibration holds no batch; give at least one")
    chosen, reasons = _choose(model, first, include, exclude)
    moments = _measure(model, chosen, chain([first], batches))
    unreached = len(chosen) - len(moments)
    if unreached:
        reasons["the calibration data does not reach it"] = unreached
    if not moments:
        raise NothingToDoError(_nothing(reasons))
    restored = with_stand_ins(model, Restored, {name: (name,) for name in moments})
    for module in restored.modules():
        if isinstance(module, Restored) and module.site in moments:
            found = moments[module.site]
            module.calibrate(found.mean, found.variance)
    return restored


def _choose(
    model: nn.Module, example_inputs: Inputs, include: Sequence[str] | None, exclude: Sequence[str] | None
) -> tuple[dict[str, _ConvNd], Counter[str]]:
    """The convolutions to give a BatchNorm, by name, and how many are left without for which reason."""
    modules = dict(model.named_modules())
    sites = [
        site
        for site in inspect(model, example_inputs)
        if isinstance(modules.get(site.name), _ConvNd | Expanded)
    ]
    skipped = left_out([site.name for site in sites], include, exclude)
    held = Counter(id(parameter) for module in modules.values() for parameter in module._parameters.values())
    chosen: dict[str, _ConvNd] = {}
    reasons: Counter[str] = Counter()
    for site in sites:
        conv = cast("_ConvNd", modules[site.name])
        if reason := skipped.get(site.name) or _refusal(site, conv, held):
            reasons[reason] += 1
        else:
            chosen[site.name] = conv
    return chosen, reasons


def _refusal(site: Site, conv: _ConvNd, held: Counter[int]) -> str | None:
    if site.reason is not None:
        return site.reason
    if site.batch_norm is not None:
        return "it has a BatchNorm of its own"
    if conv.bias is None:
        return "it has no bias to take up the shift of a BatchNorm"
    if not conv.bias.requires_grad or held[id(conv.bias)] > 1:
        return "its bias is frozen, or that of another layer too"
    if has_own_forward(conv):
        return "its class has a forward of its own, through which a BatchNorm may not fold"
    return None


def _nothing(reasons: Counter[str]) -> str:
    if not reasons:
        return "the model has no convolution"
    text = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return f"none of the {reasons.total()} convolutions can have a BatchNorm put back: {text}"


def _measure(
    model: nn.Module, convolutions: Mapping[str, _ConvNd], batches: Iterable[Inputs]
) -> dict[str, Moments]:
    """What each convolution puts out over all batches, for those that run."""
    moments = {name: Moments() for name in convolutions}

    def see(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda conv, args, output: moments[name].add(by_channel(cast("_ConvNd", conv), output))

    with ExitStack() as stack:
        for name, conv in convolutions.items():
            stack.callback(conv.register_forward_hook(see(name), prepend=True).remove)
        stack.enter_context(untouched(model))
        stack.enter_context(torch.no_grad())
        for batch in batches:
            model(*(batch if isinstance(batch, tuple) else (batch,)))
    for name, found in moments.items():
        if not (found.mean.isfinite() & found.squares.isfinite()).all():
            raise InputError(f"the output of {name!r} on the calibration data is not finite; check the data")
    return {name: found for name, found in moments.items() if found.count}
