"""Copies of a model in which modules are substituted while copying.

Every reference to a module (one called at several places, a Python list, an fx graph) then leads to its substitute,
and the copy never holds both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class StandIn(nn.Module):
    """A module in the place of another, which it holds as ``HELD``: attributes that it lacks are that one's."""

    HELD: ClassVar[str]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == self.HELD:  # before it is there
                raise
            return getattr(getattr(self, self.HELD), name)


def with_stand_ins(model: Model, kind: type[StandIn], arguments: Mapping[str, tuple[Any, ...]]) -> Model:
    """A deep copy of ``model`` with ``kind(module, *arguments[name])`` in the place of each module named."""
    modules = dict(model.named_modules())
    stand_ins = {name: kind.__new__(kind) for name in arguments}
    memo: dict[int, object] = {id(modules[name]): stand_in for name, stand_in in stand_ins.items()}
    for name, stand_in in stand_ins.items():
        held = fill(blank(modules[name]), modules[name], memo)
        stand_in.__init__(held, *arguments[name])  # type: ignore[misc]
    return copy.deepcopy(model, memo)


def blank(module: Model) -> Model:
    """An instance to be filled once all references to it can be told."""
    return module.__class__.__new__(module.__class__)


def fill(copied: Model, module: Model, memo: dict[int, object]) -> Model:
    """Make ``copied`` a deep copy of ``module``, where ``memo`` holds what each substituted module becomes."""
    copied.__dict__ = copy.deepcopy(module.__dict__, memo)
    return copied
