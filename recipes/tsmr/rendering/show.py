"""A report as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterable

import click
from rich import box
from rich.console import Console
from rich.table import Column, Table

from recipes.faces import comparison_table, figures_table
from recipes.tsmr.improved import Improved
from recipes.tsmr.results import Arm, TSMRReport
from reparam_kit import printable


def show(improved: Improved, student: str) -> None:
    """Print what came of ``student``: the figures, the file, and where its page is."""
    show_report(improved.report)
    changed = ""
    if improved.verification is not None:
        changed = f": the graph of {student}, {len(improved.verification.structure.payloads)} weights differ"
    click.echo(printable(f"{improved.output}{changed}"))
    if improved.report.integers is not None:
        click.echo(str(improved.report.integers))
    if improved.verification is not None and not improved.verification.outputs:
        click.echo(printable("; ".join(improved.verification.notes)))
    click.echo(printable(f"{improved.page}: the run as a page, for a browser; {improved.card}: a model card"))


def show_report(report: TSMRReport) -> None:
    """Print what the run came to; without a validation set, only how far other outputs moved."""
    console = Console()
    for name, change in report.other_outputs.items():
        if change:
            console.print(
                f"output {name!r} depends on weights trained for the embedding: it changes by {change:.2%} on "
                "these images, check it where it is in use, or keep the weights of both as they are with --exclude",
                markup=False,
                soft_wrap=True,
            )
    if not report.before:
        return
    for verdict, comparison in zip(report.before, report.comparisons, strict=True):
        console.print(verdict.subject, markup=False, highlight=False)
        if not report.kept:
            console.print(figures_table({"deployed": verdict}))
            continue
        console.print(comparison_table(comparison, ("before", "after")))
        if comparison.worse():
            worse = "; ".join(difference.before.name for difference in comparison.worse())
            console.print(
                f"worse by more than chance: {worse}", markup=False, highlight=False, soft_wrap=True
            )
    if report.kept:
        console.print(
            f"kept: epoch {report.kept} of {len(report.epochs)}, {report.way}the best on this set",
            soft_wrap=True,
        )
    else:
        console.print(
            f"no epoch of {len(report.epochs)} beat the student on this set: its weights are kept",
            soft_wrap=True,
        )
    if report.advice:
        console.print(report.advice, markup=False, highlight=False, soft_wrap=True)
    for share, names in report.held_back.items():
        console.print(
            f"not taken: {share:g} of the way, {', '.join(names)} worse by more than chance", soft_wrap=True
        )
    if report.config.keep_gallery and report.gallery:
        console.print("gallery: embeddings of the old model, of the new one, and new ones against old ones")
        console.print(figures_table(report.gallery))
    if report.ablation:
        console.print(_ablation(report.ablation))


def _ablation(arms: Iterable[Arm]) -> Table:
    tried = list(arms)
    shown = (Column(arm.name, min_width=max(map(len, arm.name.split()))) for arm in tried)
    table = Table(Column("", no_wrap=True), *shown, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_row("lr", *(f"{arm.lr:.1e}" for arm in tried))
    for name in tried[0].spreads:
        table.add_row(name, *(_spread(arm, name) for arm in tried))
    return table


def _spread(arm: Arm, name: str) -> str:
    spread, figure = arm.spreads[name], arm.verdicts[0][name]
    return f"{figure.shown(spread.mean)} ± {figure.shown(spread.std)}"
