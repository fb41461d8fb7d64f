"""What libraries warn of, log and print of their own accord: shown on the command line where ``--verbose`` asks for it.

What this project warns of is shown in any case, and so is what the user's own files do, such as a factory's.
"""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from reparam_kit.errors import printable

_OURS = ("reparam_kit", "recipes")
_INSTALLED = ("site-packages", "dist-packages")
_ENVIRONMENT = {"TORCH_LOGS": "-all", "TORCH_CPP_LOG_LEVEL": "ERROR", "TF_CPP_MIN_LOG_LEVEL": "2"}
_VERBOSE, _HUSHED = "reparam_kit.verbose", "reparam_kit.hushed"
_NONE = 4  # of onnxruntime's levels: fatal errors alone


def with_verbose(command: click.Command) -> click.Command:
    """Return the command with the option that shows all, unless it has options of these names; a group with all of its
    commands.
    """
    names = ["-v", "--verbose"]
    if not any(name in names for param in command.params for name in param.opts):
        shows = "Show what libraries warn of and log, too."
        command.params.append(
            click.Option(names, is_flag=True, expose_value=False, callback=_loud, help=shows)
        )
    for inner in getattr(command, "commands", {}).values():
        with_verbose(inner)
    return command


def _loud(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        ctx.meta[_VERBOSE] = True
        ctx.meta.get(_HUSHED, ExitStack()).close()


@contextmanager
def libraries_hushed(ctx: click.Context) -> Iterator[None]:
    """Show within it, on standard error, what this project and the user's files warn of, and of libraries what the user
    asks for: nothing, or all that ``--verbose``, which may come with the command, shows.
    """
    handler, core = _Shown(ctx), logging.getLogger("reparam_kit")
    level = core.level
    logging.getLogger().addHandler(handler)
    core.setLevel(logging.INFO)
    try:
        with ExitStack() as hushed:
            ctx.meta[_HUSHED] = hushed
            if not ctx.meta.get(_VERBOSE):
                for part in (_environment(), _warnings(), _imports()):
                    hushed.enter_context(part)
            yield
    finally:
        core.setLevel(level)
        logging.getLogger().removeHandler(handler)


class _Shown(logging.Handler):
    """Prints what is warned of, and what the core says, as lines of the command."""

    def __init__(self, ctx: click.Context) -> None:
        super().__init__(logging.INFO)
        self._ctx = ctx

    def emit(self, record: logging.LogRecord) -> None:
        package = record.name.partition(".")[0]
        if record.levelno < logging.WARNING:
            if package == "reparam_kit":
                click.echo(printable(f"reparam-kit: {record.getMessage()}"), err=True)
            return
        ours = package in _OURS
        if ours or not _of_library(record.pathname) or self._ctx.meta.get(_VERBOSE):
            who = "reparam-kit" if ours else record.name
            click.echo(printable(f"{who}: {record.levelname.lower()}: {record.getMessage()}"), err=True)


def _of_library(filename: str) -> bool:
    """Return whether a file is an installed library's, or Python's own."""
    path = Path(filename)
    return not set(_INSTALLED).isdisjoint(path.parts) or path.is_relative_to(sysconfig.get_path("stdlib"))


@contextmanager
def _environment() -> Iterator[None]:
    """Tell libraries, which read it when they are imported, and the processes that are started."""
    added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _warnings() -> Iterator[None]:
    """Hide Python's warnings of libraries; this project has none, and what is told of its lines is of what they call.

    Filters stay: who has set them, with ``-W`` or PYTHONWARNINGS, gets what they say.
    """
    show = warnings.showwarning
    ours = tuple(str(Path(__file__).parents[2] / name) for name in _OURS)

    def shown(
        message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        if sys.warnoptions or not (_of_library(filename) or filename.startswith(ours)):
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = shown
    try:
        yield
    finally:
        warnings.showwarning = show


@contextmanager
def _imports() -> Iterator[None]:
    """Import onnxruntime without a word: it looks for GPUs meanwhile, and warns where it cannot look."""
    finder = _Silent()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.leave()


class _Silent(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "onnxruntime":
            return None
        self.leave()
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _silently(spec.loader.exec_module)  # type: ignore[method-assign, assignment]
        return spec

    def leave(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)


def _silently(run: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    """Return ``run`` with nothing on standard error, that of libraries in C++ included."""

    def silent(module: ModuleType) -> None:
        kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, 2)
            run(module)
            module.set_default_logger_severity(_NONE)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nothing)

    return silent
