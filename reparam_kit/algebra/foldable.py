"""What all stand-ins of a layer have in common: how one of them becomes that layer again."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reparam_kit.errors import InputError
from reparam_kit.substitution import StandIn, blank, copying, fill

if TYPE_CHECKING:
    from reparam_kit.algebra.layers import Layer


class Foldable(StandIn):
    """Stands in the place of the layer ``base`` and computes, in eval mode, what that one can hold too.

    ``site`` is the name of the layer in the model as it was.
    """

    site: str
    base: Layer

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise InputError(f"{self.site}: its weight is a sum; set the .weight of its .base, or fold first")
        super().__setattr__(name, value)

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse, where ``torch.jit.script`` asks each module for what it is to compile: that would be the fold, which
        trains as another model does.
        """
        raise self.refused("torch.jit.script cannot compile a sum of branches, or a restored BatchNorm")

    def refused(self, reason: str) -> InputError:
        """Return the error of a transform of torch that is for the fold alone."""
        return InputError(f"{self.site or 'the layer'}: {reason}; fold the model first (rk.fold)")

    def changed(self) -> str | None:
        """Return what has been done to it since it was made, in words, that a fold could not hold; None: nothing."""
        raise NotImplementedError

    def fold_into(self, plain: Layer) -> Tensor | None:
        """Write what it computes, multiplied out in float64 and rounded once, into ``plain``, a copy of ``base``.

        Returns what goes into the BatchNorm behind: a shift ``[O]``, float64, of its output (None: nothing).
        """
        raise NotImplementedError

    def carry_hooks(self, plain: nn.Module, memo: dict[int, object]) -> None:
        """Put the hooks that it has been given, copied, around those that ``plain`` has of ``base``."""
        for key, hook in reversed(self._forward_pre_hooks.items()):
            with_kwargs = key in self._forward_pre_hooks_with_kwargs
            plain.register_forward_pre_hook(copy.deepcopy(hook, memo), prepend=True, with_kwargs=with_kwargs)
        for key, hook in self._forward_hooks.items():
            plain.register_forward_hook(
                copy.deepcopy(hook, memo),
                with_kwargs=key in self._forward_hooks_with_kwargs,
                always_call=key in self._forward_hooks_always_called,
            )

    def fuse(self) -> Layer:
        """Return the folded layer, for ``timm.utils.reparameterize_model``, which asks each module for it.

        It folds one module at a time and so cannot reach the BatchNorm behind: a shift that ``rk.fold`` would put
        there becomes a bias, which the deployed layer did not have.

        Raises:
            InputError: the layer has been changed since it was made, in a way that a fold could not hold.
        """
        if reason := self.changed():
            raise InputError(f"{self.site} cannot be folded: {reason}")
        plain = blank(self.base)
        with copying(self) as memo:
            memo[id(self)] = memo[id(self.base)] = plain
            fill(plain, self.base, memo)
            self.carry_hooks(plain, memo)
        shift = self.fold_into(plain)
        if shift is not None:
            bias = shift if plain.bias is None else shift + plain.bias.detach()
            plain.bias = nn.Parameter(bias.to(plain.weight))
        return plain


def overwrite(parameter: Tensor, value: Tensor) -> None:
    """Write ``value``, rounded once, in place. What is equal already keeps its bits: a zero has two, by its sign."""
    rounded = value.to(parameter.dtype)
    parameter.copy_(torch.where(rounded == parameter, parameter, rounded))
