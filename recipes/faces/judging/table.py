"""Verdicts and comparisons as tables in a terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Column, Table

from recipes.faces.judging.verdict import Comparison, Difference, Figure, Verdict
from recipes.faces.judging.wanted import FoundInput
from reparam_kit import printable


def figures_table(verdicts: Mapping[str, Verdict], title: str = "", notes: bool = False) -> Table:
    """Return a row for each figure, a column for each model; with ``notes``, also how it was asked, and what is
    missing.

    >>> table = figures_table({"deployed": evaluate("deployed.onnx", "lfw.bin")})
    >>> [column.header for column in table.columns]
    ['', 'deployed']
    """
    first = next(iter(verdicts.values()))
    table = Table(Column(printable(title), no_wrap=True), *_headers([*verdicts]), box=box.SIMPLE)
    above = [verdict.notes() if notes else {} for verdict in verdicts.values()]
    rows: dict[str, list[str]] = {name: [row.get(name, "") for row in above] for name in above[0]}
    for figure in first.figures:
        found = [verdict[figure.name] for verdict in verdicts.values()]
        if notes or all(one.value is not None for one in found):
            rows[figure.name] = [_cell(one) for one in found]
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def comparison_table(comparison: Comparison, names: tuple[str, str]) -> Table:
    """Return a row for each figure of two models: both, the difference, its interval and the probability of chance.

    A star marks the figure that decides.

    >>> judge = PairsJudge("lfw.bin")
    >>> before, after = judge.judge("deployed.onnx"), judge.judge("better.onnx")
    >>> [column.header for column in comparison_table(judge.compare(before, after), ("before", "after")).columns]
    ['', 'before', 'after', 'difference', '95 %', 'chance']
    """
    shown = [Column(name, no_wrap=True) for name in ("difference", "95 %", "chance")]
    table = Table(
        Column("", no_wrap=True), *(Column(name, overflow="fold") for name in _headers(names)), *shown,
        box=box.SIMPLE, padding=(0, 1, 0, 0), caption=f"* decides: {comparison.told}", caption_justify="left",
    )  # fmt: skip
    for difference in comparison.differences:
        if difference.value is not None:
            name = difference.before.name
            table.add_row(f"{name} *" if name == comparison.decides else name, *_cells(difference))
    return table


def _headers(names: Sequence[str]) -> list[str]:
    """Return the names of models without the folder that all of them are in, which would take the room of figures."""
    shared = os.path.commonprefix(names) if len(names) > 1 else ""  # noqa: RUF071 - it is cut at a folder
    start = shared.rfind(os.sep) + 1
    return [printable(name[start:]) for name in names]


def inputs_table(found: FoundInput) -> Table:
    """Return a row for each input preset, the best first: what decides, what separates, and the probability of chance.

    >>> [column.header for column in inputs_table(find_input("deployed.onnx", "lfw.bin")).columns]
    ['input', 'accuracy', "d'", 'chance']
    """
    best = found.verdicts[found.best]
    names = list(dict.fromkeys((best.decides, best.separation.name)))
    table = Table(
        Column("input", no_wrap=True), *names, "chance",
        box=box.SIMPLE, caption="chance: that the input is behind the first by chance alone", caption_justify="left",
    )  # fmt: skip
    for name, verdict in found.verdicts.items():
        chance = found.chances.get(name)
        shown = "" if chance is None else f"{chance:.3f}"
        table.add_row(printable(name), *(verdict[one].shown() for one in names), shown)
    for name in found.left_out:
        table.add_row(printable(name), "no usable embedding")
    return table


def _cells(difference: Difference) -> list[str]:
    before, after, value = difference.before, difference.after, difference.value or 0.0
    ends = difference.interval
    return [
        before.shown(),
        after.shown(),
        before.change(value),
        "" if ends is None else f"{before.change(ends[0])} {before.change(ends[1])}",
        difference.chance_shown,
    ]


def _cell(figure: Figure) -> str:
    ends = figure.interval
    if ends is None:
        return figure.shown()
    return f"{figure.shown()} ({figure.shown(ends[0])} to {figure.shown(ends[1])})"
