"""The structure of a module: everything but the numbers in its tensors, as text that can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from reparam_kit.onnx.changes import Change, PayloadChange, StructuralDiff, change, measure


def compare_modules(a: nn.Module, b: nn.Module) -> StructuralDiff:
    """Class, names, shapes and dtypes of the state_dict, leaf modules with their settings, code of an fx graph."""
    first, second = _describe(a), _describe(b)
    changes = [found for where in first for found in _differences(where, first[where], second[where])]
    return StructuralDiff(tuple(changes), tuple(_moved(a.state_dict(), b.state_dict())))


def _describe(module: nn.Module) -> dict[str, dict[str, str]]:
    """Kind of thing -> name -> what it is."""
    kind = type(module)
    return {
        "class": {"": f"{kind.__module__}.{kind.__qualname__}"},
        "code": {"": module.code} if isinstance(module, fx.GraphModule) else {},
        "modules": {name: repr(part) for name, part in module.named_modules() if not part._modules},
        "state_dict": {
            name: f"{_dtype(tensor)}{list(tensor.shape)}" for name, tensor in module.state_dict().items()
        },
    }


def _differences(where: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Change]:
    for name in {**before, **after}:
        place, old, new = f"{where}[{name}]" if name else where, before.get(name), after.get(name)
        if old is None:
            yield change("added", place, None, new)
        elif new is None:
            yield change("removed", place, old, None)
        elif old != new:
            yield change("changed", place, old, new)
    orders = [name for name in before if name in after], [name for name in after if name in before]
    if orders[0] != orders[1]:
        yield change("reordered", where, *(", ".join(order) for order in orders))


def _moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Iterator[PayloadChange]:
    for name, old in before.items():
        new = after.get(name)
        if new is None or not old.is_floating_point() or (old.shape, old.dtype) != (new.shape, new.dtype):
            continue
        if not torch.equal(old.cpu(), new.cpu()):
            # numpy has no bfloat16
            arrays = ((t.float() if t.dtype is torch.bfloat16 else t).cpu().numpy() for t in (old, new))
            yield measure(name, _dtype(old), *arrays)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
