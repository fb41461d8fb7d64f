"""What surgery has made of a model, as text: enough to do the same to another copy of the model as it was.

So a file of tensors and text is all that an expanded model needs to be stored, beside the code of the net.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from reparam_kit import algebra
from reparam_kit.algebra import Expanded
from reparam_kit.restoration import Restored
from reparam_kit.substitution import with_stand_ins

Model = TypeVar("Model", bound=nn.Module)


def record(model: nn.Module) -> dict[str, Any]:
    """The restored BatchNorms and the expanded layers of ``model`` by name, in JSON's types; empty without any."""
    modules = dict(model.named_modules())
    restored = {name: part.site for name, part in modules.items() if isinstance(part, Restored)}
    expanded = {
        name: [part.block, part.norm, part.site, part.shift_into]
        for name, part in modules.items()
        if isinstance(part, Expanded)
    }
    return {"restored": restored, "expanded": expanded} if restored or expanded else {}


def repeat(model: Model, recorded: Mapping[str, Any]) -> Model:
    """A copy of ``model`` with what ``record`` told of another; its new parameters are those of a fresh start.

    Raises:
        KeyError: the model has no such layer.
    """
    # Restored is outermost, and the names of what it holds begin with its own.
    model = with_stand_ins(model, Restored, {name: (site,) for name, site in recorded["restored"].items()})
    arguments = {
        name: (algebra.block(block), norm, site, shift_into)
        for name, (block, norm, site, shift_into) in recorded["expanded"].items()
    }
    return with_stand_ins(model, Expanded, arguments)
