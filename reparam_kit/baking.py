"""Weights that are computed at each call, made plain: what a parametrisation gives in eval mode becomes the parameter.

A convolution under weight norm, spectral norm, pruning or a ``torch.nn.utils.parametrize`` module has no weight of
its own that could be written as a sum of branches. Baked, it has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from reparam_kit.errors import NothingToDoError
from reparam_kit.modes import evaluating
from reparam_kit.substitution import copying

Model = TypeVar("Model", bound=nn.Module)

# The styles older than parametrize, which compute a tensor in a forward pre-hook.
_REMOVE: dict[type, Callable[[nn.Module, str], nn.Module]] = {
    WeightNorm: remove_weight_norm,
    SpectralNorm: remove_spectral_norm,
    prune.BasePruningMethod: prune.remove,
}


def bake(model: Model) -> Model:
    """Return a copy of ``model`` in which every parametrised tensor is a plain parameter (or buffer) with its present
    value.

    Covers ``torch.nn.utils.parametrize`` (``parametrizations.weight_norm``, ``spectral_norm``, ``orthogonal``, one's
    own), the older ``torch.nn.utils.weight_norm`` and ``spectral_norm``, and ``torch.nn.utils.prune``. The copy
    computes, to the bit, what ``model`` does in eval mode; its modules have their plain classes back, and those that
    were shared still are. A weight stays frozen if all that it was computed from is.

    Raises:
        NothingToDoError: no tensor of the model is parametrised.
        UnsupportedError: a part of the model cannot be copied; the message names it.

    >>> net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)))
    >>> sorted(bake(net).state_dict())
    ['0.bias', '0.weight']
    """
    # What a hook computed last is an attribute with a gradient history, which deepcopy refuses.
    computed = [getattr(module, name) for module in model.modules() for name, _ in _hooked(module)]
    if not computed and not any(parametrize.is_parametrized(module) for module in model.modules()):
        raise NothingToDoError("no weight of the model is parametrised, so there is nothing to bake")
    with copying(model) as memo:
        memo.update({id(value): value.detach() for value in computed})
        baked = copy.deepcopy(model, memo)
    with evaluating(baked), torch.no_grad():
        for module in list(baked.modules()):
            for name, style in list(_hooked(module)):
                _remove_hook(module, name, style)
            if parametrize.is_parametrized(module):
                _remove_parametrizations(module)
            _remove_load_hooks(module)
    return baked


def _hooked(module: nn.Module) -> Iterator[tuple[str, type]]:
    """Name of each tensor that a forward pre-hook computes, and the style of the hook."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm | SpectralNorm):
            yield hook.name, type(hook)
        elif isinstance(hook, prune.BasePruningMethod):
            yield hook._tensor_name, prune.BasePruningMethod


def _remove_hook(module: nn.Module, name: str, style: type) -> None:
    stored = (module._parameters.get(f"{name}{suffix}") for suffix in ("_g", "_v", "_orig"))
    trains = any(source is not None and source.requires_grad for source in stored)
    value = _REMOVE[style](module, name)._parameters.pop(name)
    assert value is not None
    _put(module, name, value, trains)


def _remove_parametrizations(module: nn.Module) -> None:
    """Remove them by hand: torch's removal deletes the property from the class, which a copy shares with its
    original.
    """
    found = [
        (name, getattr(module, name).detach().clone(), list(source.parameters(recurse=False)))
        for name, source in cast("nn.ModuleDict", module.parametrizations).items()
    ]
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value, sources in found:
        if sources:
            _put(module, name, value, any(source.requires_grad for source in sources))
        else:
            module.register_buffer(name, value)


def _remove_load_hooks(module: nn.Module) -> None:
    """Remove what torch leaves: the plain module could not be pickled, or not load the state_dict of its like."""
    hooks: dict[int, Any] = module._load_state_dict_pre_hooks
    for key in [key for key, hook in hooks.items() if hook.hook.__module__.startswith("torch.nn.utils.")]:
        del hooks[key]


def _put(module: nn.Module, name: str, value: Tensor, trains: bool) -> None:
    """Register a parameter; a weight before the bias, as in the plain classes."""
    setattr(module, name, nn.Parameter(value, trains))
    module._parameters = dict(sorted(module._parameters.items(), key=lambda item: item[0].startswith("bias")))
