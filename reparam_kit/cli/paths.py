"""Paths on the command line: what is written says so, and everything else that is a path is read.

So a command has its outputs held against its inputs by declaring them, and none can leave it out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import click

from reparam_kit.atomic import require_writable
from reparam_kit.errors import InputError
from reparam_kit.outputs import Output, hold_apart


class OutputPath(click.Path):
    """What an option names to be written: a file with one of ``suffixes``, or a folder.

    Args:
        suffixes: those that say what is written; none for a folder, and where any will do.
        holds: of a folder, patterns of what is written into it.

    >>> @click.command()
    ... @click.argument("model", type=click.Path())
    ... @click.option("-o", "--output", type=OutputPath(".onnx"))
    ... def shrink(model, output):
    ...     print(output)
    >>> shrink(["deployed.onnx", "-o", "small.onnx"], standalone_mode=False)
    small.onnx
    """

    def __init__(self, *suffixes: str, holds: tuple[str, ...] = ()) -> None:
        super().__init__(path_type=Path)
        self.suffixes = suffixes
        self.holds = holds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(super().convert(value, param, ctx))  # type: ignore[arg-type]
        if self.suffixes and path.suffix not in self.suffixes:
            *others, last = self.suffixes
            choice = f"{', '.join(others)} or {last}" if others else last
            raise InputError(f"{path}: the suffix says what is written; choose {choice}")
        return path


class RootPath(click.Path):
    """A folder that other paths start in, of which nothing else is read.

    >>> @click.command()
    ... @click.option("--images", type=RootPath(), help="Folder that the paths of a list start in.")
    ... def train(images):
    ...     print(images)
    >>> train(["--images", "crops"], standalone_mode=False)
    crops
    """


def held_apart(command: click.Command) -> click.Command:
    """Return ``command``, which refuses outputs that are its inputs or each other, or cannot be written, before it
    runs; of a group, each of its commands does.
    """
    held, run = copy(command), command.invoke
    if isinstance(command, click.Group):
        held.resolve_command = _held_below(command)  # type: ignore[attr-defined]
        return held

    def invoke(ctx: click.Context) -> Any:
        given = list(_given(ctx))
        outputs = {
            name: Output(value, kind.holds) for name, kind, value in given if isinstance(kind, OutputPath)
        }
        if outputs:
            inputs = [(name, value) for name, kind, value in given if type(kind) is click.Path]
            hold_apart(inputs, outputs)
        for _, kind, value in given:
            if isinstance(kind, OutputPath) and kind.suffixes:
                require_writable(value)
        return run(ctx)

    held.invoke = invoke  # type: ignore[method-assign]
    return held


def _held_below(group: click.Group) -> Callable[..., tuple[str | None, click.Command | None, list[str]]]:
    """Return what finds the commands of a group, each held apart."""

    def resolve(ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = group.resolve_command(ctx, args)
        return name, command and held_apart(command), rest

    return resolve


def _given(ctx: click.Context) -> Iterator[tuple[str, click.Path, Any]]:
    """Return what each path of a command line is called, its type, and its value."""
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        if value is not None and isinstance(param.type, click.Path):
            name = max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name
            yield from ((name, param.type, one) for one in (value if isinstance(value, tuple) else (value,)))
