"""Choices as a file and ``--set`` write them: plain values by place, such as ``stages.0.losses.pairs``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from recipes.tsmr.choices import ChoiceError, Unit, inside, kinds

_FLAGS = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}


def alternatives(kind: Any) -> list[Any]:
    """Return the types of which a value of ``kind`` has one: ``[tuple[str, ...], NoneType]`` of a list or none."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [found for part in get_args(kind) for found in alternatives(part)]
    return [kind]


def structure(kind: Any) -> Any:
    """Return the one of its alternatives that has parts, a class of choices, a tuple or a dict; None without any."""
    return next(
        (one for one in alternatives(kind) if is_dataclass(one) or get_origin(one) in (tuple, dict)), None
    )


def part(whole: Any, name: str) -> Any:
    """Return the type of a part of a class of choices; of a stage, a loss by its name is one too.

    Raises:
        ChoiceError: it has no such part.
    """
    whole.refuse_unknown({name: None})
    return kinds(whole).get(name, float)


def as_written(kind: Any, value: Any) -> Any:
    """Return a value of a file or of ``--set`` as its type has it.

    A flag may be on, off, yes or no; what may be none, none; a time, 45m; a list of one, that one; a name, a number.
    """
    whole, types = structure(kind), alternatives(kind)
    if isinstance(value, Mapping) and is_dataclass(whole):
        return {name: as_written(kinds(whole).get(name, Any), item) for name, item in value.items()}
    if isinstance(value, list) and get_origin(whole) is tuple:
        return [as_written(get_args(whole)[0], item) for item in value]
    if isinstance(value, str) and str not in types:
        word = value.lower()
        if bool in types and word in _FLAGS:
            return _FLAGS[word]
        if NoneType in types and word == "none":
            return None
        if Unit("minutes") in getattr(kind, "__metadata__", ()):
            return minutes(word)
    if isinstance(value, bool) and is_dataclass(whole) and NoneType in types:
        return {} if value else None
    if type(value) is int and str in types:
        return str(value)
    if isinstance(value, str | int | float) and get_origin(whole) is tuple and str not in types:
        return [as_written(get_args(whole)[0], value)]
    return value


def minutes(text: str) -> float | str:
    """Return how many minutes a time such as ``90s``, ``45m``, ``8h`` or ``45`` has; what is no time as it is."""
    number, unit = (text, "m") if text[-1:].isdigit() else (text[:-1], text[-1:])
    try:
        return float(number) * {"s": 1 / 60, "m": 1, "h": 60}[unit]
    except (ValueError, KeyError):
        return text


def split(place: str) -> tuple[str, ...]:
    """Return the names in a place such as ``stages.0.rate`` or ``stages[0].rate``."""
    return tuple(re.findall(r"[^.\[\]]+", place))


def amended(kind: Any, values: Any, place: Sequence[str], value: Any) -> Any:
    """Return ``values``, plain ones of ``kind``, with another value at ``place``.

    Raises:
        ChoiceError: there is no such place.
    """
    if not place:
        return as_written(kind, value)
    whole, (name, *rest) = structure(kind), place
    if is_dataclass(whole):
        inner = part(whole, name)
        if name not in kinds(whole):
            return amended(whole, values, ["losses", *place], value)
        return {**(values or {}), name: _inside(name, inner, (values or {}).get(name), rest, value)}
    if get_origin(whole) is dict:
        return {**(values or {}), name: _inside(name, get_args(whole)[1], None, rest, value)}
    if get_origin(whole) is tuple and isinstance(values, list | tuple):
        if not (name.isdecimal() and int(name) < len(values)):
            raise ChoiceError(f"has no item {name!r}: its {len(values)} are numbered from 0")
        items = list(values)
        items[int(name)] = _inside(f"[{name}]", get_args(whole)[0], items[int(name)], rest, value)
        return items
    raise ChoiceError(f"has no parts, and so no {name!r}")


def _inside(name: str, kind: Any, values: Any, place: Sequence[str], value: Any) -> Any:
    with inside(name):
        return amended(kind, values, place, value)
