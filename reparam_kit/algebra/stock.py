"""Whether a module computes what torch's own class of it does, and nothing sees or changes what goes in and out.

Only then is a convolution, or a BatchNorm in eval mode, the map that its parameters stand for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

PASSIVE: list[Callable[..., Any]] = []
"""Hooks of this package that change nothing, and that nobody has to know of."""

_CODE = ("forward", "_conv_forward", "_output_padding", "__call__", "_call_impl")


def torch_class(module: nn.Module) -> type[nn.Module]:
    """Return the class of torch.nn that ``module`` is or derives from."""
    return next(kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules"))


def has_own_forward(module: nn.Module) -> bool:
    """Return whether class or instance compute something else than torch's class, as weight standardisation does."""
    kind = torch_class(module)
    return any(
        name in vars(module) or getattr(type(module), name, None) is not getattr(kind, name, None)
        for name in _CODE
    )


def has_hooks(module: nn.Module) -> bool:
    """Return whether hooks see, and may change, what goes into the forward or comes out."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return any(all(hook is not own for own in PASSIVE) for hook in hooks)


def not_affine(norm: nn.Module) -> str | None:
    """Return why a BatchNorm is not ``y -> factor * y + shift`` with its statistics in eval mode, or None: it is."""
    if not isinstance(norm, _BatchNorm) or torch_class(norm) is _BatchNorm:
        return f"it is a {type(norm).__name__}, not a BatchNorm of torch"
    if has_own_forward(norm):
        return "its class has a forward of its own"
    if norm._buffers.get("running_mean") is None or norm._buffers.get("running_var") is None:
        return "it has no running statistics of its own"
    if has_hooks(norm):
        return "it has hooks"
    return None
