"""What each choice of a run may be, and the one place that holds a value against it, whoever gave it.

A type below says in its description what a value must be; msgspec holds a value against the type. JSON, the command
line and Python all end in the constructors of ``recipes.tsmr.config``, so a wrong value gets the same line from each.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from msgspec import Meta, ValidationError, convert

from reparam_kit import InputError, suggestion

_LARGEST = 2**63 - 1  # what torch counts and seeds with
_FINITE = sys.float_info.max


class Unit(str):
    """What a choice counts, or is a part of; beside the type in its annotation."""


Maybe = Annotated[bool | None, Meta(description="true, false or none")]
Flag = Annotated[bool, Meta(description="true or false")]
Name = Annotated[str, Meta(min_length=1, description="a name")]
Names = Annotated[
    str | Annotated[tuple[str, ...], Meta(min_length=1)], Meta(description="a name, or a list of names")
]
Deciding = Annotated[Name | None, Meta(description="the name of a figure, or none")]
Output = Annotated[Name | None, Meta(description="the name of an output, or none")]
Outputs = Annotated[
    str | Annotated[tuple[str, ...], Meta(min_length=1)] | None,
    Meta(description="the name of an output, a list of them, or none"),
]
Patterns = Annotated[tuple[str, ...] | None, Meta(description="a list of patterns, or none")]
Block = Annotated[Name | None, Meta(description="a preset, an expression or none")]
Count = Annotated[int, Meta(ge=1, le=_LARGEST, description="a whole number, at least 1")]
Passes = Annotated[Count | None, Meta(description="a whole number, at least 1, or none"), Unit("epochs")]
Several = Annotated[int, Meta(ge=2, le=_LARGEST, description="a whole number, at least 2")]
Steps = Annotated[Count | None, Meta(description="a whole number, at least 1, or none"), Unit("steps")]
Limit = Annotated[Several | None, Meta(description="a whole number, at least 2, or none")]
Width = Annotated[
    int, Meta(ge=1, le=2**16, description="a whole number, at least 1 and at most 65536"), Unit("units")
]
Workers = Annotated[int, Meta(ge=0, le=1024, description="a whole number from 0 to 1024"), Unit("processes")]
Seed = Annotated[int, Meta(ge=0, le=_LARGEST, description="a whole number, zero or positive, below 2^63")]
Positive = Annotated[float, Meta(gt=0, le=_FINITE, description="a positive number")]
Minutes = Annotated[
    Positive | None,
    Meta(description="minutes, a positive number, or a time such as 90s, 45m or 8h, or none"),
    Unit("minutes"),
]
Rate = Annotated[Positive | None, Meta(description="a positive number, or none")]
Weight = Annotated[float, Meta(ge=0, le=_FINITE, description="a number, zero or positive")]
Part = Annotated[float, Meta(ge=0, le=1, description="a number between 0 and 1")]
Share = Annotated[Part | None, Meta(description="a number between 0 and 1, or none")]
Shares = Annotated[tuple[Part, ...], Meta(description="numbers between 0 and 1")]
PartBelowOne = Annotated[float, Meta(ge=0, lt=1, description="a number, at least 0 and below 1")]
Angle = Annotated[float, Meta(ge=0, lt=1.5, description="a number, at least 0 and below 1.5")]
Seeds = Annotated[
    tuple[Seed, ...], Meta(min_length=1, description="whole numbers, zero or positive, one at least")
]
Rates = Annotated[
    Annotated[tuple[Positive, ...], Meta(min_length=1)] | None,
    Meta(description="positive numbers, one at least, or none"),
]
Saturation = Annotated[float, Meta(gt=0.5, lt=1, description="a number above 0.5 and below 1")]

Norm = Literal["scale", "batch", "none"]
MarginKind = Literal["arcface", "cosface", "adaface"]
MARGINS: tuple[MarginKind, ...] = get_args(MarginKind)
Taught = Annotated[
    Literal["original", "live"] | Count, Meta(description='"original", "live", or a whole number, at least 1')
]
Scales = Literal["kept", "weights"]
SCALES: tuple[Scales, ...] = get_args(Scales)
TaskName = Literal["auto", "embeddings", "logits", "maps"]
TASKS: tuple[TaskName, ...] = get_args(TaskName)
Combine = Literal["concat", "mean"]
COMBINES: tuple[Combine, ...] = get_args(Combine)


class ChoiceError(InputError):
    """A choice that cannot be used: ``stages[0].cosine``, the value given where that says something, and why not.

    Attributes:
        place: the path, and behind it the name that is not known, where the reason is that.
    """

    def __init__(self, reason: str, path: str = "", value: str | None = None, unknown: str = "") -> None:
        self.reason, self.path, self.value, self.unknown = reason, path, value, unknown
        self.place = f"{path}.{unknown}" if path and unknown else path or unknown
        given = path if value is None else f"{path}={value}"
        super().__init__(
            f"{given} {reason}" if value is not None else f"{given}: {reason}" if given else reason
        )

    def inside(self, outer: str) -> ChoiceError:
        """Return the same of a choice that is a part of ``outer``."""
        joint = "." if self.path and not self.path.startswith("[") else ""
        return ChoiceError(self.reason, f"{outer}{joint}{self.path}", self.value, self.unknown)


@contextmanager
def inside(outer: str) -> Iterator[None]:
    """Within it, a choice that cannot be used is one of a part of ``outer``."""
    try:
        yield
    except ChoiceError as error:
        raise error.inside(outer) from error.__cause__


class Choices:
    """A frozen dataclass whose values are as its annotations say, from the moment that it is made."""

    def __post_init__(self) -> None:
        for name, kind in kinds(type(self)).items():
            with inside(name):
                object.__setattr__(self, name, made_value(kind, getattr(self, name)))

    @classmethod
    def refuse_unknown(cls, values: Mapping[str, Any]) -> None:
        """Raise :class:`ChoiceError` for a name that is no choice of this class."""
        known = list(kinds(cls))
        for name in values:
            if name not in known:
                raise ChoiceError(
                    f"{cls.__name__} has no choice {name!r}: {suggestion(str(name), known, 'choices')}",
                    unknown=str(name),
                )


def kinds(choices: Any) -> dict[str, Any]:
    """Return the type of each choice of a class by its name, with all that its annotation says."""
    return _kinds(choices)


@cache
def _kinds(choices: Any) -> dict[str, Any]:
    hints = get_type_hints(choices, include_extras=True)
    return {field.name: hints[field.name] for field in fields(choices)}


def made_value(kind: Any, value: Any) -> Any:
    """Return ``value``, with nested choices that are written as JSON has them, ``{name: value}``, made into what they
    say.
    """
    if type(None) in get_args(kind):
        return None if value is None else made_value(get_args(kind)[0], value)
    if is_dataclass(kind):
        return _nested(kind, value)
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ChoiceError("must be a list", value=_shown(value))
        return tuple(_item(get_args(kind)[0], number, item) for number, item in enumerate(value))
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            raise ChoiceError("is written as {name: value}", value=_shown(value))
        return made_items(get_args(kind)[1], value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # a number of numpy's is as good as one of Python's
    try:
        return convert(value, kind)
    except ValidationError as error:
        raise ChoiceError(_rule(kind, value), value=_shown(value)) from error


def made_items(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all names, each as ``kind`` says."""
    made = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise ChoiceError("must be a name", value=_shown(name))
        with inside(name):
            made[name] = made_value(kind, value)
    return made


def _nested(kind: Any, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        raise ChoiceError(f"{kind.__name__} is written as {{name: value}}, not as {_shown(value)}")
    kind.refuse_unknown(value)
    return kind(**value)


def _item(kind: Any, number: int, value: Any) -> Any:
    with inside(f"[{number}]"):
        return made_value(kind, value)


def _rule(kind: Any, value: Any) -> str:
    if get_origin(kind) is Literal:
        return f"is not known: {suggestion(str(value), get_args(kind), 'values')}"
    return f"must be {kind.__metadata__[0].description}"


def _shown(value: Any) -> str:
    """Return ``value`` as Python writes it, however long it is."""
    try:
        return reprlib.repr(value)
    except Exception:  # a whole number of more digits than Python writes
        return f"<{type(value).__name__}>"
