"""A BatchNorm put back, for training only, behind convolutions whose own was folded into them at export.

It starts as the identity: with the mean ``m`` and variance ``v`` of the convolution's output on the user's data,
``weight = sqrt(v + eps)`` and ``bias = m`` undo in eval mode what the statistics do. In train mode it normalises as
the lost one did. Folding multiplies it into the convolution's weight and bias again.
"""

from __future__ import annotations

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
    Foldable,
    Kernel,
    Layer,
    affine,
    by_channel,
    computed,
    has_own_forward,
    not_affine,
    overwrite,
    to_kernel,
    to_weight,
)
from reparam_kit.calibration import Moments, run_on
from reparam_kit.devices import without_float64
from reparam_kit.errors import InputError, NothingToDoError
from reparam_kit.inputs import Inputs
from reparam_kit.patterns import left_out
from reparam_kit.sites import inspect
from reparam_kit.sites.flow import untouched
from reparam_kit.substitution import with_stand_ins

Model = TypeVar("Model", bound=nn.Module)


class Restored(Foldable):
    """``conv`` (the deployed convolution, or its expansion), then ``norm``.

    Attributes that this class lacks are those of ``conv``. ``site`` is the name of the convolution in the deployed
    model.
    """

    HELD = "conv"

    conv: _ConvNd | Expanded
    norm: _BatchNorm

    def __init__(self, conv: _ConvNd, site: str) -> None:
        super().__init__()
        self.site = site
        # Statistics in half precision would overflow, or stand still.
        dtype = torch.promote_types(conv.weight.dtype, torch.float32)
        norm = getattr(nn, f"BatchNorm{len(conv.output_padding)}d")(conv.out_channels)
        self.norm = norm.to(conv.weight.device, dtype)
        self.conv = conv  # from here on, attributes that are not there yet are its own
        self.train(conv.training)

    @property
    def base(self) -> Layer:  # type: ignore[override]
        """The deployed convolution, expanded or not."""
        return self.conv.base if isinstance(self.conv, Expanded) else self.conv

    @property
    def weight(self) -> Tensor:
        """The multiplied-out weight in eval mode, differentiable; writing into it raises InputError."""
        total = self.multiply_out()
        return computed(to_weight(self.base, total).to(self.base.weight.dtype), self.site)

    @property
    def bias(self) -> Tensor:
        """The multiplied-out bias in eval mode, differentiable; writing into it raises InputError."""
        return computed(cast("Tensor", self.multiply_out().bias).to(self.base.weight.dtype), self.site)

    def multiply_out(self, dtype: torch.dtype | None = None) -> Kernel:
        """Convolution and BatchNorm in eval mode as one kernel, in ``dtype`` (default: that of the BatchNorm)."""
        base, dtype = self.base, dtype or self.norm.weight.dtype
        if isinstance(self.conv, Expanded):
            kernel = self.conv.multiply_out(dtype)
        else:
            kernel = to_kernel(base, base.weight.to(dtype))
        assert base.bias is not None
        bias = base.bias.to(dtype) if kernel.bias is None else base.bias.to(dtype) + kernel.bias
        return Kernel(kernel.weight, kernel.groups, bias).scale(*affine(self.norm, dtype))

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

    def changed(self) -> str | None:
        base = self.base
        if isinstance(self.conv, Expanded) and (reason := self.conv.changed()):
            return reason
        if any(base._parameters.get(name) is None for name in ("weight", "bias")):
            return "its weight or bias has been put under a norm, a mask or a parametrization, or is gone"
        if "forward" in vars(self) or has_own_forward(base):
            return "its forward has been replaced"
        if base._forward_hooks or self.conv._forward_hooks:
            return "hooks stand between its convolution and its BatchNorm: put them on the layer itself"
        reason = not_affine(self.norm)
        return f"its BatchNorm has been changed: {reason}" if reason else None

    def fold_into(self, plain: Layer) -> None:
        with torch.no_grad():
            total = self.multiply_out(torch.float64)
            assert plain.bias is not None
            overwrite(plain.weight, to_weight(plain, total))
            overwrite(plain.bias, cast("Tensor", total.bias))

    def carry_hooks(self, plain: nn.Module, memo: dict[int, object]) -> None:
        if isinstance(self.conv, Expanded):
            self.conv.carry_hooks(plain, memo)
        super().carry_hooks(plain, memo)


@without_float64
def restore_bn(
    model: Model,
    calibration: Iterable[Inputs],
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> Model:
    """Return a copy of ``model`` in which convolutions have a BatchNorm behind them again, which ``fold`` takes away.

    In eval mode the copy computes what ``model`` does, to rounding. The running statistics are the mean and the
    variance of each convolution's output over all of ``calibration``. Expand the copy, not the other way about; what
    was the convolution ``stem`` is ``stem.conv`` and ``stem.norm`` in it.

    Left without: convolutions that ``expand`` would refuse, those with a BatchNorm of their own, those without a bias
    (the deployed net has no place for the shift), those whose class has a forward of its own (such as weight
    standardisation, which a scale does not pass), and those that ``calibration`` does not reach.

    Args:
        model: any module; it is not changed, but run in eval mode.
        calibration: batches of inputs, each a tensor or a sequence of arguments.
        include: patterns (as in fnmatch) of the convolutions to give a BatchNorm; None: all.
        exclude: patterns of those to leave alone.

    Raises:
        InputError: a pattern that matches nothing; no batch; an output that is not finite.
        NothingToDoError: no convolution can have a BatchNorm put back; the message says why.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> restored = restore_bn(net, calibration=[torch.randn(4, 3, 16, 16)])
    >>> type(restored[0].norm).__name__, restored[0].norm.num_features
    ('BatchNorm2d', 8)
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
    """Return the convolutions to give a BatchNorm, by name, and how many are left without for which reason."""
    modules = dict(model.named_modules())
    sites = [
        site
        for site in inspect(model, example_inputs)
        if isinstance(modules.get(site.name), _ConvNd | Expanded)
    ]
    skipped = left_out({site.name: [site.name] for site in sites}, include, exclude, "layer")
    chosen: dict[str, _ConvNd] = {}
    reasons: Counter[str] = Counter()
    for site in sites:
        conv = cast("_ConvNd", modules[site.name])
        if reason := skipped.get(site.name) or site.restore_reason:
            reasons[reason] += 1
        else:
            chosen[site.name] = conv
    return chosen, reasons


def _nothing(reasons: Counter[str]) -> str:
    if not reasons:
        return "the model has no convolution"
    text = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    return f"none of the {reasons.total()} convolutions can have a BatchNorm put back: {text}"


def _measure(
    model: nn.Module, convolutions: Mapping[str, _ConvNd], batches: Iterable[Inputs]
) -> dict[str, Moments]:
    """Return what each convolution puts out over all batches, for those that run."""
    moments = {name: Moments() for name in convolutions}

    def see(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def add(conv: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if output.dim() != len(cast("_ConvNd", conv).output_padding) + 2:
                raise InputError(
                    f"{name!r} runs on an input without a batch, which a BatchNorm cannot; exclude it"
                )
            moments[name].add(by_channel(cast("_ConvNd", conv), output))

        return add

    with ExitStack() as stack:
        for name, conv in convolutions.items():
            stack.callback(conv.register_forward_hook(see(name), prepend=True).remove)
        stack.enter_context(untouched(model))
        stack.enter_context(torch.no_grad())
        run_on(model, batches)
    for name, found in moments.items():
        if not (found.mean.isfinite() & found.squares.isfinite()).all():
            raise InputError(f"the output of {name!r} on the calibration data is not finite; check the data")
    return {name: found for name, found in moments.items() if found.count}
