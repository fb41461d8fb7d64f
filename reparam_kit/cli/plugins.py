"""Commands of other packages: the entry points of the group ``reparam_kit.commands``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint
from itertools import groupby
from operator import attrgetter
from typing import Any, NoReturn

import click

from reparam_kit.errors import InputError, first_line, printable
from reparam_kit.registry import entry_points


class Unusable(click.Command):
    """Stands for a command that cannot be loaded: it is not listed, and says why when it is called."""

    def __init__(self, point: EntryPoint, reason: str) -> None:
        super().__init__(point.name, hidden=True)
        self.package = point.value.partition(".")[0]
        self.reason = f"{point.value} cannot be loaded: {reason}"

    def make_context(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(f"no command {self.name}: {self.reason}")


def plugins() -> dict[str, EntryPoint]:
    """Return the entry points by the names of their commands."""
    return {point.name: point for point in entry_points("reparam_kit.commands")}


@cache
def load(point: EntryPoint) -> click.Command:
    """Return the command of an entry point, or an :class:`Unusable`: the code of others may raise anything."""
    try:
        command = point.load()
    except SystemExit:
        return Unusable(point, f"it exits when it is imported{_whence(point)}")
    except Exception as error:
        return Unusable(point, f"{type(error).__name__}: {first_line(error)}{_whence(point)}")
    if not isinstance(command, click.Command):
        return Unusable(point, f"it is of type {type(command).__name__}, no click command")
    return command


def warn(commands: Iterable[click.Command | None]) -> None:
    """Say on standard error which commands cannot be loaded, in one line for each package, with its first reason."""
    unusable = sorted((c for c in commands if isinstance(c, Unusable)), key=attrgetter("package"))
    for _, group in groupby(unusable, attrgetter("package")):
        several = list(group)
        names = ", ".join(str(command.name) for command in several)
        click.echo(printable(f"reparam-kit: warning: no command {names}: {several[0].reason}"), err=True)


def _whence(point: EntryPoint) -> str:
    """Return the file of the top-level package: another package than the one meant may have the same name."""
    package = point.value.partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None)
    return f" ({package} is {file})" if file else ""
