"""The reference of the command line, as Markdown: what ``--help`` says of each command, in the same groups."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from reparam_kit.cli import main
from reparam_kit.cli.plugins import Unusable


def reference() -> str:
    """Return a section for each command, those of packages and within groups too."""
    first = click.Context(main, info_name="reparam-kit", **main.context_settings)
    return "\n\n".join(map(_section, contexts(first)))


def contexts(ctx: click.Context) -> Iterator[click.Context]:
    """Yield the context of the command of ``ctx``, and of each that it holds.

    Raises:
        InputError: one of them cannot be loaded, so that the reference would lack it.
    """
    yield ctx
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            command = ctx.command.get_command(ctx, name)
            if isinstance(command, Unusable):
                command.make_context()
            if command is not None and not command.hidden:
                yield from contexts(click.Context(command, parent=ctx, info_name=name))


class _Help(click.HelpFormatter):
    """Keeps the lists of a help text by their headings, instead of writing them."""

    def __init__(self) -> None:
        super().__init__(width=10_000)
        self.lists: dict[str, list[tuple[str, str]]] = {}

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._rows = self.lists.setdefault(name, [])
        yield

    def write_dl(self, rows: Sequence[tuple[str, str]], *_: Any, **__: Any) -> None:
        self._rows.extend(rows)


def _section(ctx: click.Context) -> str:
    listed = _Help()
    ctx.command.format_options(ctx, listed)
    parts = [f"## {ctx.command_path}", *_text(ctx.command.help or ""), f"```sh\n{_usage(ctx)}\n```"]
    for name, rows in listed.lists.items():
        parts += [f"**{name}**", "\n".join(f"- `{term}`: {_plain(text)}" for term, text in rows)]
    return "\n\n".join([*parts, *_text(ctx.command.epilog or "")])


def _usage(ctx: click.Context) -> str:
    return " ".join([ctx.command_path, *ctx.command.collect_usage_pieces(ctx)])


def _text(text: str) -> list[str]:
    r"""Return the paragraphs, those whose lines are to stay (after a line ``\b``) as they are."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return [
        f"```text\n{part[2:].strip()}\n```" if part.startswith("\b\n") else _plain(part)
        for part in paragraphs
    ]


def _plain(text: str) -> str:
    """Return ``text`` with nothing in it that Markdown or HTML would read as a sign."""
    shown = re.sub(r"([\\`*_{}\[\]#|])", r"\\\1", text)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
