"""The one place that decides, before a model is folded, whether what it holds is still what was made of it.

Between ``expand`` and ``fold`` a model is the user's: layers are put under norms and masks, BatchNorms are exchanged,
parts are taken out. What a fold could not hold is refused, for the fold would be another function.
"""

from __future__ import annotations

from itertools import takewhile

from torch import nn

from reparam_kit.algebra import Expanded, Foldable, not_affine
from reparam_kit.errors import InputError
from reparam_kit.restoration import Restored
from reparam_kit.sites.find_fx import parted
from reparam_kit.sites.refusals import Holders, holders, shared


def homes_of_shifts(model: nn.Module, stand_ins: dict[str, Foldable]) -> dict[str, str]:
    """Return the BatchNorm, by name, into which the shift of each expanded layer goes that its bias does not take up.

    Args:
        model: the model that is to be folded.
        stand_ins: its expanded layers and restored BatchNorms, by name; where one stands in another, the outer one.

    Raises:
        InputError: one of them has been changed in a way that its fold could not hold; the message says how.
    """
    held = holders(model)
    homes = {}
    for name, module in stand_ins.items():
        if reason := module.changed() or _tied(module, name, held):
            raise InputError(f"{name or 'the layer'} cannot be folded: {reason}")
        if isinstance(module, Expanded) and module.shifts and module.shift_into is not None:
            homes[name] = _home(model, name, module, held)
    for name in sorted(_parted(model, homes)):
        raise InputError(
            f"{name} cannot be folded, for something has come between it and the BatchNorm {homes[name]}, which takes "
            "up its shift: take away what was put there, or exchanged, or given a hook, since rk.expand"
        )
    return homes


def _parted(model: nn.Module, homes: dict[str, str]) -> set[str]:
    """Return the layers whose output is not the input of their BatchNorm, as far as tracing tells.

    Where the whole model cannot be traced, the smallest module that holds both is.
    """
    if not homes:
        return set()
    found = parted(model, homes)
    parts: dict[str, dict[str, str]] = {}
    for name in homes.keys() - found.keys():
        parts.setdefault(_common(name, homes[name]), {})[name] = homes[name]
    for part, within in parts.items():
        if part:
            names = {name[len(part) + 1 :]: norm[len(part) + 1 :] for name, norm in within.items()}
            told = parted(model.get_submodule(part), names)
            found |= {_join(part, name): verdict for name, verdict in told.items()}
    return {name for name, verdict in found.items() if verdict}


def _common(*names: str) -> str:
    """Return the module that holds all of these, by name."""
    levels = zip(*(name.split(".") for name in names), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, levels))


def _tied(module: Foldable, name: str, held: Holders) -> str | None:
    """Return which other layer has been given a parameter that the fold writes."""
    path = _join(
        name, "conv.base" if isinstance(module, Restored) and module.base is not module.conv else module.HELD
    )
    shift = isinstance(module, Restored) or (isinstance(module, Expanded) and module.shifts)
    for own in ("weight", "bias") if shift and getattr(module, "shift_into", None) is None else ("weight",):
        if others := shared(module.base, path, own, held):
            return f"its {own} has been made that of {others} too"
    return None


def _home(model: nn.Module, name: str, module: Expanded, held: Holders) -> str:
    """Return the BatchNorm that is called ``shift_into`` where the layer is called ``site``: the model may be a
    part.
    """
    assert module.shift_into is not None
    here, there = name.split("."), module.site.split(".")
    while here and there and here[-1] == there[-1]:
        here.pop(), there.pop()
    outside = "".join(f"{part}." for part in there if part)
    if not module.shift_into.startswith(outside):
        raise InputError(
            f"{name or 'the layer'} cannot be folded alone: the shift of its branches goes into the BatchNorm "
            f"{module.shift_into} of the model that was expanded, which is not in this part; fold the whole model and "
            "take the part of that"
        )
    home = _join(".".join(here), module.shift_into.removeprefix(outside))
    try:
        norm = model.get_submodule(home)
    except AttributeError:
        reason: str | None = "it is gone"
    else:
        reason = not_affine(norm)
        if reason is None and (others := shared(norm, home, "running_mean", held)):
            reason = f"its running mean has been made that of {others} too"
    if reason:
        raise InputError(
            f"{name} cannot be folded, for the BatchNorm {home} cannot take up its shift: {reason}"
        )
    return home


def _join(*names: str) -> str:
    return ".".join(filter(None, names))
