"""What installed packages bring, by their entry points: their code may do anything, and ours goes on."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout, suppress
from importlib.metadata import EntryPoint, distributions
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import Any

from reparam_kit.errors import InputError, first_line

_PROJECT, _RECIPES = "reparam-kit", "recipes"
_HOME = Path(__file__).parents[1]


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group, those of this project first; what is found twice is one."""
    ours, others = _found(group)
    return list(dict.fromkeys([*ours, *sorted(others, key=attrgetter("value"))]))


def foreign_packages() -> set[str]:
    """Return the names of the packages by which others bring something."""
    _, others = _found()
    return {_package(point) for point in others}


def _found(group: str | None = None) -> tuple[list[EntryPoint], list[EntryPoint]]:
    """Return the entry points that this project brings, and those that others do."""
    ours: list[EntryPoint] = []
    others: list[EntryPoint] = []
    for distribution in distributions():
        with suppress(Exception):  # some package's list of entry points is damaged: no concern of ours
            points = [
                point
                for point in distribution.entry_points
                if (point.group == group if group else point.group.startswith("reparam_kit."))
            ]
            if points:
                (ours if distribution.name == _PROJECT else others).extend(points)
    return ours, others


def load_point(point: EntryPoint) -> Any:
    """Import what an entry point names; what that prints goes to standard error.

    Raises:
        InputError: it cannot be imported, whatever it raises.
    """
    try:
        with redirect_stdout(sys.stderr):
            return point.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise InputError(f"{reason(error)}{_whence(point)}") from error


def reason(error: BaseException) -> str:
    """Return what to say of an error that the code of others raised when it was imported."""
    said = "it exits when it is imported" if isinstance(error, SystemExit) else first_line(error)
    return f"{type(error).__name__}: {said}"


def _whence(point: EntryPoint) -> str:
    """Return where the top-level package lies: another than the one meant may have the same name."""
    package = _package(point)
    with suppress(Exception):
        spec = find_spec(package)
        if spec and spec.origin:
            ours = package != _RECIPES or Path(spec.origin).is_relative_to(_HOME)
            advice = "" if ours else f", another one: install {_PROJECT} in an environment of its own"
            return f" ({package} is {spec.origin}{advice})"
    return ""


def _package(point: EntryPoint) -> str:
    return point.value.partition(":")[0].partition(".")[0]
