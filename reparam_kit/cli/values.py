"""What the text of an option stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from reparam_kit.registry import import_file

Command = Callable[..., None]


def patterns(option: str, text: str) -> Callable[[Command], Command]:
    """Return an option that may be repeated, and is None where it is not given."""
    return click.option(
        option, multiple=True, metavar="PATTERN", help=text, callback=lambda ctx, param, value: value or None
    )


def examples(ctx: click.Context, param: click.Parameter, shapes: tuple[str, ...]) -> Any:
    """Random tensors of the shapes given, or None."""
    sizes = [shape.split("x") for shape in shapes]
    if not all(size.isdecimal() and int(size) for shape in sizes for size in shape):
        raise click.BadParameter("write a shape as 16x3x224x224", ctx, param)
    if not sizes:
        return None
    import torch

    return tuple(torch.randn(*map(int, shape)) for shape in sizes)


def shapes(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> dict[str, tuple[int, ...]] | None:
    """Return the sizes by the names of inputs, which may hold anything."""
    found = {}
    for text in given:
        name, sign, sizes = text.rpartition("=")
        if not (sign and all(size.isdecimal() and int(size) for size in sizes.split(","))):
            raise click.BadParameter(f"{text}: write a shape as x=1,3,24,94", ctx, param)
        found[name] = tuple(map(int, sizes.split(",")))
    return found or None


def dynamic(
    ctx: click.Context, param: click.Parameter, given: tuple[str, ...]
) -> str | dict[str, dict[int, str]] | None:
    """Return what free dimensions are called, by the names of inputs, which may hold anything; or one name for all."""
    if len(given) < 2 and not any("=" in text for text in given):
        return given[0] if given else None
    found: dict[str, dict[int, str]] = {}
    for text in given:
        place, _, label = text.rpartition("=")
        name, _, axis = place.rpartition(":")
        if not (name and axis.isdecimal() and label):
            raise click.BadParameter(f"{text}: write --dynamic batch alone, or each as x:0=batch", ctx, param)
        found.setdefault(name, {})[int(axis)] = label
    return found


def import_files(ctx: click.Context, param: click.Parameter, files: tuple[str, ...]) -> None:
    """Run the files, which may define factors and the like."""
    for file in files:
        import_file(file)
