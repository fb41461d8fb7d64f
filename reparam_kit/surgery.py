"""Expand and fold: layers of a module tree replaced by sums of branches, and put back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reparam_kit import algebra
from reparam_kit.algebra import Expanded, Expression, Foldable, norm_of, overwrite
from reparam_kit.algebra.passes import compose_when_called, forget
from reparam_kit.calibration import calibrate
from reparam_kit.devices import without_float64
from reparam_kit.errors import NothingToDoError
from reparam_kit.inputs import Inputs
from reparam_kit.intact import homes_of_shifts
from reparam_kit.planning import nothing_to_expand, plan
from reparam_kit.substitution import blank, copying, deep_copy, fill, with_stand_ins

Model = TypeVar("Model", bound=nn.Module)


@without_float64
def expand(
    model: Model,
    block: str | Expression = "dbb",
    norm: str | None = None,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    example_inputs: Inputs | None = None,
    budget: float | None = None,
    calibration: Iterable[Inputs] | None = None,
) -> Model:
    """Return a copy of ``model`` in which every site is a sum of branches that computes the same function, to the bit.

    Args:
        model: any module; it is not changed.
        block: a preset's name ("dbb", "repvgg", ...), an expression, or its text ("conv(k) + conv(1) >> avg(k)").
        norm: "scale" multiplies the sum out before each step and runs one convolution; "batch" gives every factor a
            BatchNorm and runs every branch, as the papers do; "none" has neither. None: "scale", unless the preset
            has one of its own.
        include: patterns (as in fnmatch) of the layers to expand; None: all convolutions. Linear layers are expanded
            only where a pattern matches them.
        exclude: patterns of those to leave alone.
        example_inputs: a tensor or a sequence of arguments. With them the model is run once, in eval mode, to follow
            the dataflow of one that cannot be traced symbolically, and to measure what each site costs.
        budget: bound on the cost of a training step in units of the plain one, such as 1.3 (``planning.cost_ratio``);
            the cheapest sites are taken until it is used up. Needs ``example_inputs`` of the size trained with.
        calibration: batches of inputs, each a tensor or a sequence of arguments. With them the branches start in units
            of the outputs seen (``"scale"``), or with running statistics of the data (``"batch"``).

    Raises:
        ExpressionError: the block is unknown or does not parse.
        InputError: unknown norm, a pattern that matches nothing, or a budget that cannot be judged.
        NothingToDoError: no convolution can be expanded; the message says why.
        UnsupportedError: a part of the model cannot be copied; the message names it.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> student = expand(net, "conv(k) + conv(1) >> conv(k)")
    >>> x = torch.randn(2, 3, 16, 16)
    >>> torch.equal(student(x), net(x))
    True
    """
    expression = algebra.block(block)
    norm = norm or norm_of(block)
    plans = plan(model, expression, norm, include, exclude, example_inputs, budget)
    sites = [item.site for item in plans if item.reason is None]
    if not sites:
        raise NothingToDoError(nothing_to_expand(plans, expression))
    arguments = {site.name: (expression, norm, site.name, site.shift_into) for site in sites}
    student = with_stand_ins(model, Expanded, arguments)
    if calibration is not None:
        calibrate(student, calibration)
    compose_when_called(student)
    return student


@without_float64
def fold(model: Model) -> Model:
    """Return a copy of an expanded model with every sum multiplied out, in float64, into its convolution.

    Class, module tree, state_dict keys and hooks are those of the model that was expanded; the mode it is in does not
    matter and ``model`` can be trained further. With ``norm="batch"`` the fold is what the model does in eval mode.
    A BatchNorm from ``restore_bn`` is folded too.

    Raises:
        NothingToDoError: the model has no expanded convolution, and no restored BatchNorm.
        InputError: a layer, or the BatchNorm behind it, was changed after it was expanded in a way that a fold could
            not hold, or the model is a part without that BatchNorm.
        UnsupportedError: a part of the model cannot be copied; the message names it.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> fold(expand(net))
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
      (1): ReLU()
    )
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, Foldable)}
    if not found:
        raise NothingToDoError("the model has no expanded convolution: expand it first")
    # One that stands within another is a part of it.
    outermost = {module.base: name for name, module in reversed(found.items())}
    stand_ins = {name: found[name] for name in outermost.values()}
    homes = homes_of_shifts(model, stand_ins)
    plain_of = {base: blank(base) for base in outermost}
    with copying(model) as memo:
        for module in found.values():
            memo[id(module)] = memo[id(module.base)] = plain_of[module.base]
        for base, plain in plain_of.items():
            fill(plain, base, memo)
        folded = deep_copy(model, memo, plain_of.values())
        for module in stand_ins.values():
            module.carry_hooks(plain_of[module.base], memo)
    forget(folded)
    for name, module in stand_ins.items():
        shift = module.fold_into(plain_of[module.base])
        if name in homes and shift is not None:
            norm = cast("_BatchNorm", folded.get_submodule(homes[name]))
            assert norm.running_mean is not None
            overwrite(norm.running_mean, norm.running_mean.double() - shift)
    return folded
