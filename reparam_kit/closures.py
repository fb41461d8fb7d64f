"""Functions that a copied model holds.

``copy.deepcopy`` copies no function: a hook that is a lambda over ``self``, or a forward that wraps another, would
run on with the model that was copied. Here what such a function closes over becomes that of the copy.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from types import BuiltinMethodType, CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor

_HELD = {FunctionType, MethodType, BuiltinMethodType, partial, weakref.ref, tuple}
"""What deepcopy leaves as it is although it may lead to a part of the model."""

_PLAIN = {int, float, bool, str, type(None)}


def rebind(memo: dict[int, Any]) -> None:
    """Exchange the functions that lead to what ``copy.deepcopy`` has copied, by ``memo``, in all the copies.

    A function is made anew only if one of its cells, its defaults or the arguments bound to it leads to a part of the
    model. What else it closes over, such as a list of the user's, stays the same object.
    """
    copies = {key: value for key, value in memo.items() if key != id(memo)}  # there, originals are kept alive
    rebinding = _Rebinding(copies)
    for holder in copies.values():
        own = holder if isinstance(holder, dict | list) else _attributes(holder)
        held = [(key, value) for key, value in _items(own) if type(value) in _HELD]
        for key, value in held:
            if type(value) is tuple and _PLAIN.issuperset(map(type, value)):  # sizes: nearly all that is held
                continue
            if rebinding.leads(value, set()):
                own[key] = rebinding.renewed(value)


def _items(holder: Any) -> Iterable[tuple[Any, Any]]:
    return enumerate(holder) if isinstance(holder, list) else holder.items()


def _attributes(holder: Any) -> dict[str, Any]:
    found = {} if isinstance(holder, Tensor) or type(holder) in _HELD else getattr(holder, "__dict__", {})
    return found if isinstance(found, dict) else {}


class _Rebinding:
    """Values that lead to originals, made anew; ``copies`` has the copy of each original by its id."""

    def __init__(self, copies: dict[int, Any]) -> None:
        self.copies = copies
        self.cells: dict[int, CellType] = {}
        self.functions: dict[int, FunctionType] = {}

    def leads(self, value: Any, seen: set[int]) -> bool:
        """Return whether a part of the model can be reached from ``value``."""
        if id(value) in self.copies:
            return True
        if id(value) in seen:
            return False
        seen.add(id(value))
        return any(self.leads(part, seen) for part in _parts(value))

    def renewed(self, value: Any) -> Any:
        """Return ``value`` with the copies in place of their originals; itself, where it does not lead to one."""
        if id(value) in self.copies:
            return self.copies[id(value)]
        if not self.leads(value, set()):
            return value
        if isinstance(value, FunctionType):
            return self.functions.get(id(value)) or self._function(value)
        if isinstance(value, MethodType):
            return MethodType(self.renewed(value.__func__), self.renewed(value.__self__))
        if isinstance(value, BuiltinMethodType):
            return getattr(self.renewed(value.__self__), value.__name__)
        if isinstance(value, partial):
            args, keywords = self.renewed(value.args), self.renewed(value.keywords)
            return partial(self.renewed(value.func), *args, **keywords)
        if isinstance(value, weakref.ref):
            return weakref.ref(self.renewed(value()))
        if isinstance(value, dict):
            return {key: self.renewed(part) for key, part in value.items()}
        return type(value)([self.renewed(part) for part in value])

    def _function(self, function: FunctionType) -> FunctionType:
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        made = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
        self.functions[id(function)] = made  # before what may lead to itself
        for old, new in zip(function.__closure__ or (), cells, strict=True):
            if new is not old:
                new.cell_contents = self.renewed(old.cell_contents)
        made.__defaults__ = self.renewed(function.__defaults__)
        made.__kwdefaults__ = self.renewed(function.__kwdefaults__)
        made.__qualname__, made.__annotations__ = function.__qualname__, function.__annotations__
        made.__dict__.update(function.__dict__)
        return made

    def _cell(self, cell: CellType) -> CellType:
        """Return another cell for each that leads to the model: functions that share it still do."""
        if not any(self.leads(content, set()) for content in _contents(cell)):
            return cell
        return self.cells.setdefault(id(cell), CellType())


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            yield from _contents(cell)
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, BuiltinMethodType):
        yield value.__self__
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, weakref.ref):
        yield value()
    elif type(value) in (list, tuple):
        yield from value
    elif type(value) is dict:
        yield from value.values()


def _contents(cell: CellType) -> Iterator[Any]:
    """Return what a cell holds: nothing, where its variable is not bound yet."""
    try:
        yield cell.cell_contents
    except ValueError:
        return
