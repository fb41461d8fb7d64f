"""How a model was expanded, as text: enough to expand another copy of it in the same way.

So an expanded model is stored as tensors and text, beside the code of the net.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, TypeVar, cast

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from reparam_kit import algebra
from reparam_kit.algebra import LAYERS, NORMS, Block, Expanded, Layer, fit, geometry
from reparam_kit.algebra.factors import Trained
from reparam_kit.algebra.passes import compose_when_called
from reparam_kit.errors import ExpressionError, first_line
from reparam_kit.restoration import Restored
from reparam_kit.substitution import with_stand_ins

Model = TypeVar("Model", bound=nn.Module)


def record(model: nn.Module) -> dict[str, Any]:
    """Return the restored BatchNorms and the expanded layers of ``model`` by name, in JSON's types; empty
    without any.
    """
    modules = dict(model.named_modules())
    restored = {name: part.site for name, part in modules.items() if isinstance(part, Restored)}
    expanded = {
        name: [part.block, part.norm, part.site, part.shift_into]
        for name, part in modules.items()
        if isinstance(part, Expanded)
    }
    return {"restored": restored, "expanded": expanded} if restored or expanded else {}


def repeat(model: Model, recorded: Mapping[str, Any], tensors: Iterable[Tensor]) -> Model:
    """Return a copy of ``model`` expanded as ``record`` says of another; its new parameters have start values.

    Args:
        model: the model as it was.
        recorded: what a file holds as the output of ``record``; it may be anything.
        tensors: the parameters and buffers that the file has for the copy.

    Raises:
        ValueError: no ``record`` of such a model, or branches with more than ``tensors`` could fill. No memory has been
            taken for them then.
    """
    if not all(isinstance(part, Mapping) for part in (recorded, *recorded.values())):
        raise ValueError("its record is no dict of dicts")
    restored, expanded = recorded["restored"], recorded["expanded"]
    _require_text([*restored, *restored.values(), *expanded])
    _require_layers(model, restored, _ConvNd)
    # Restored is outermost, and the names of what it holds begin with its own.
    model = with_stand_ins(model, Restored, {name: (site,) for name, site in restored.items()})
    _require_layers(model, expanded, LAYERS)
    arguments = {}
    for name, (block, norm, site, shift_into) in expanded.items():
        _require_text([block, norm, site, "" if shift_into is None else shift_into])
        arguments[name] = (_block(block), norm, site, shift_into)
    _require_room(model, arguments, list(tensors))
    student = with_stand_ins(model, Expanded, arguments)
    compose_when_called(student)
    return student


def _block(text: str) -> Block:
    try:
        return algebra.block(text)
    except ExpressionError as error:
        raise ValueError(first_line(error)) from None


def _require_text(values: Iterable[object]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"a {type(value).__name__} where a name belongs")


def _require_layers(
    model: nn.Module, names: Iterable[str], kinds: type[nn.Module] | tuple[type[nn.Module], ...]
) -> None:
    modules = dict(model.named_modules())
    for name in names:
        if not isinstance(modules.get(name), kinds):
            raise ValueError(f"the model has no layer {name!r}")


def _require_room(model: nn.Module, arguments: Mapping[str, tuple[Any, ...]], tensors: list[Tensor]) -> None:
    modules = dict(model.named_modules())
    many, room = len(tensors), sum(tensor.numel() for tensor in tensors)
    for name, (block, norm, *_) in arguments.items():
        if norm not in NORMS:
            raise ValueError(f"there is no norm {norm!r}")
        for chain in fit(block, geometry(cast("Layer", modules[name])), norm)[0]:
            runs = NORMS[norm].runs  # and then has a BatchNorm, or the like, behind each factor
            many -= len(chain) if runs else 1
            for factor, shape in chain:
                room -= prod(factor.parameter_shape(shape)) if isinstance(factor, Trained) else 0
                room -= shape.out_channels if runs else 0
            if many < 0 or room < 0:
                raise ValueError(f"layer {name!r} has branches for which there are no weights")
