"""Commands of other packages: the entry points of the group ``reparam_kit.commands``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from importlib.metadata import EntryPoint
from itertools import groupby
from operator import attrgetter
from typing import Any, NoReturn

import click

from reparam_kit.errors import InputError, printable
from reparam_kit.points import entry_points, load_point, reason

_GROUP = "reparam_kit.commands"


class Unusable(click.Command):
    """Stands for a command that cannot be loaded: it is not listed, and says why when it is called."""

    def __init__(self, point: EntryPoint, reason: str) -> None:
        super().__init__(point.name, hidden=True)
        self.package = point.value.partition(".")[0]
        self.reason = f"{point.value} cannot be loaded: {reason}"

    def make_context(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(f"no command {self.name}: {self.reason}")


def plugins() -> dict[str, EntryPoint]:
    """Return the entry points by the names of their commands; of several of one name the first."""
    return {point.name: point for point in reversed(entry_points(_GROUP))}


@cache
def load(point: EntryPoint) -> click.Command:
    """Return the command of an entry point, or an :class:`Unusable`: the code of others may raise anything."""
    try:
        command = load_point(point)
    except InputError as error:
        return Unusable(point, str(error))
    if not isinstance(command, click.Command):
        return Unusable(point, f"it is of type {type(command).__name__}, no click command")
    try:
        command.get_short_help_str()
    except Exception as error:
        return Unusable(point, f"its help raises {reason(error)}")
    return command


def warn(commands: Iterable[click.Command | None], own: Collection[str]) -> None:
    """Say on standard error which commands cannot be had: those that cannot be loaded, in one line for each package
    with its first reason, and those whose name another has, which may be one of our ``own``.
    """
    unusable = sorted((c for c in commands if isinstance(c, Unusable)), key=attrgetter("package"))
    for _, group in groupby(unusable, attrgetter("package")):
        several = list(group)
        names = ", ".join(str(command.name) for command in several)
        _say(f"no command {names}: {several[0].reason}")
    for line in _taken(own):
        _say(line)


def _taken(own: Collection[str]) -> Iterator[str]:
    first = plugins()
    for point in entry_points(_GROUP):
        if point.name in own:
            yield f"{point.value} is left out: {point.name} is a command of reparam-kit itself"
        elif point != first[point.name]:
            yield f"{point.value} is left out: the command {point.name} is {first[point.name].value}"


def _say(line: str) -> None:
    click.echo(printable(f"reparam-kit: warning: {line}"), err=True)
