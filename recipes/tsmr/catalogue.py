"""Every choice of a run: its place in a file, its default, its unit and what it means.

What a choice means is what the docstring of its class says of it, and nowhere else; its type says its unit and what it
may be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cached_property
from inspect import cleandoc
from typing import Any, Literal, get_args, get_origin

from msgspec import Meta

from recipes.tsmr.choices import Unit, kinds
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.run import OWN, Run, plain
from recipes.tsmr.schema import structure
from reparam_kit import suggestion


@dataclass(frozen=True)
class Key:
    """One choice.

    Attributes:
        place: where it stands in a file, such as ``margin.size``; of a stage ``stages.0.rate``.
        of: the class that it is a field of.
    """

    place: str
    of: Any

    @property
    def name(self) -> str:
        """The last part of its place."""
        return self.place.rpartition(".")[2]

    @property
    def kind(self) -> Any:
        """Its type, with all that its annotation says."""
        return kinds(self.of)[self.name]

    @property
    def whole(self) -> bool:
        """Whether it has parts that are keys too."""
        inner = structure(self.kind)
        return is_dataclass(get_args(inner)[0] if get_origin(inner) is tuple else inner)

    @property
    def required(self) -> bool:
        """Whether a run is none without it."""
        return self.default is MISSING or self.name in ("student_input", "teacher_input")

    @property
    def default(self) -> Any:
        """Its default as a file has it; ``MISSING`` where there is none."""
        field = next(one for one in fields(self.of) if one.name == self.name)
        made = field.default_factory() if field.default_factory is not MISSING else field.default
        return made if made is MISSING else plain(made)

    @property
    def unit(self) -> str:
        """What it counts, or is a part of; empty where it is neither."""
        return next((str(one) for one in reversed(self._said) if isinstance(one, Unit)), "")

    @property
    def allowed(self) -> str:
        """What it may be, in words."""
        if get_origin(self.kind) is Literal:
            return ", ".join(map(str, get_args(self.kind)))
        return next((str(one.description) for one in self._said if isinstance(one, Meta)), "")

    @property
    def _said(self) -> tuple[Any, ...]:
        return getattr(self.kind, "__metadata__", ())

    @cached_property
    def _sentences(self) -> list[str]:
        listed = cleandoc(self.of.__doc__ or "").partition("\nAttributes:\n")[2].partition("\n\n")[0]
        said = re.search(rf"^    {self.name}: (.*(?:\n     +.*)*)", listed, re.MULTILINE)
        return re.split(r"\.(?: |$)", " ".join(said[1].split()).replace("``", "")) if said else [""]

    @property
    def meaning(self) -> str:
        """What its docstring says of it first."""
        return self._sentences[0]

    @property
    def none(self) -> str:
        """What None stands for, where its docstring says that."""
        found = (re.match(r"None(?:, or [^:]*)?: (.*)", one) for one in self._sentences[1:])
        return next((one[1] for one in found if one), "")


def keys(of: Any = Run, within: str = "") -> Iterator[Key]:
    """Yield every choice, those that others are parts of before their parts."""
    for name in OWN if of is Run else kinds(of):
        yield Key(f"{within}{name}", of)
        inner = structure(kinds(of)[name])
        if get_origin(inner) is tuple and is_dataclass(get_args(inner)[0]):
            yield from keys(get_args(inner)[0], f"{within}{name}.0.")
        elif is_dataclass(inner):
            yield from keys(inner, f"{within}{name}.")
    if of is Run:
        yield from keys(TSMRConfig)


def unknown(place: str) -> str:
    """Return what to say of a place that is none."""
    known = [key.place for key in keys()]
    last = place.rpartition(".")[2]
    if meant := [one for one in known if one.rpartition(".")[2] == last]:
        return f"there is no choice {place!r}: did you mean {meant[0]!r}?"
    return f"there is no choice {place!r}: {suggestion(place, known, 'choices')}"
