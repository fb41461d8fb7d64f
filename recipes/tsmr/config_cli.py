"""``reparam-kit config``: all that can be chosen about a run, with defaults, units and meanings."""

from __future__ import annotations

import json
from dataclasses import MISSING

import click

import reparam_kit as rk
from recipes.tsmr.catalogue import Key, keys, unknown

_HEAD = """\
# All that a file for 'reparam-kit tsmr --config' may say, with the defaults; it needs to say only what differs.
# What stands behind # has no default, or one that depends on the rest. On the command line: --set margin.size=0.4
"""
_OPEN = ("stages", "compare")  # none of which there is, unless one is given
_COLUMN = 36


@click.command()
@click.argument("places", metavar="[KEY]...", nargs=-1)
@click.option("--show", is_flag=True, help="Print all of them, as without KEY.")
def config(places: tuple[str, ...], show: bool) -> None:
    """Explain what can be chosen about a run of tsmr: all of it, as a file for its --config that may be edited, or what
    is named by KEY, such as margin.size.
    """
    known = {key.place: key for key in keys()}
    if show or not places:
        click.echo(_HEAD + "\n".join(map(_line, known.values())))
    for place in places:
        if place not in known:
            raise rk.InputError(unknown(place))
        click.echo("\n".join(_explained(known[place], list(known.values()))))


def _line(key: Key) -> str:
    """Return the line of a key in a file, with what it means behind it."""
    *outer, name = key.place.split(".")
    item = "0" in outer  # of a list, of which the first line begins with a dash
    indent = "  " * len(outer) if not item else "  - " if name == "epochs" else "    "
    written = f"{indent}{name}: {_default(key)}".rstrip()
    if outer[:1] == ["stages"] or key.place.partition(".")[0] in _OPEN or not (_default(key) or key.whole):
        written = f"# {written}"
    return f"{written.ljust(_COLUMN)}# {'; '.join(_said(key))}"


def _explained(key: Key, known: list[Key]) -> list[str]:
    inner = [one.place for one in known if one.place.startswith(f"{key.place}.")]
    more = [f"its parts: {', '.join(inner)}"] if inner else [f"default: {_default(key) or 'none'}"]
    return [key.place, *(f"  {line}" for line in [*_said(key), *more])]


def _default(key: Key) -> str:
    """Return the default as a file has it; empty where there is none."""
    if key.whole or key.required or key.default in (MISSING, None, [], {}):
        return ""
    return key.default if isinstance(key.default, str) else json.dumps(key.default)


def _said(key: Key) -> list[str]:
    """Return what a key means, what it may be, in which unit, and what it is where it is none."""
    unit = [f"[{key.unit}]" if key.unit not in key.allowed else ""]
    said = [
        key.meaning,
        "required" if key.required else "",
        key.allowed,
        *unit,
        key.none and f"none: {key.none}",
    ]
    return [text for text in said if text]
