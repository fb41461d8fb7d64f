"""A report as tables in a terminal."""

from __future__ import annotations

from collections.abc import Iterable

import click
from rich import box
from rich.console import Console
from rich.table import Table

from recipes.faces import Evaluation
from recipes.tsmr.results import Arm, Improved, Spread, TSMRReport
from reparam_kit import printable


def show(improved: Improved, student: str) -> None:
    """Print what came of ``student``: the figures, the file, and where its page is."""
    show_report(improved.report)
    changed = ""
    if improved.verification is not None:
        changed = f": the graph of {student}, {len(improved.verification.structure.payloads)} weights differ"
    click.echo(printable(f"{improved.output}{changed}"))
    click.echo(printable(f"{improved.page}: the run as a page, for a browser"))


def show_report(report: TSMRReport) -> None:
    """Print what the run came to; without a validation set, only how far other outputs moved."""
    console = Console()
    for name, change in report.other_outputs.items():
        if change:
            console.print(
                f"output {name!r} hangs on weights that were trained for the embedding: it changes by {change:.2%} on "
                "these images, check it where it is in use, or keep the weights of both as they are with --exclude",
                markup=False,
                soft_wrap=True,
            )
    if report.before is None or report.after is None:
        return
    console.print(_scores({"before": report.before, "after": report.after}))
    if report.kept:
        console.print(f"kept: epoch {report.kept} of {len(report.epochs)}, the best on this set")
    else:
        console.print(
            f"none of {len(report.epochs)} epochs beat the student on this set: its weights are kept"
        )
    if report.config.keep_gallery:
        console.print("gallery: embeddings of the old model, of the new one, and new ones against old ones")
        console.print(_scores(report.gallery))
    if report.ablation:
        console.print(_ablation(report.ablation))


def _scores(evaluations: dict[str, Evaluation]) -> Table:
    table = Table("", *evaluations, box=box.SIMPLE)
    table.add_row("accuracy", *(f"{evaluation.accuracy:.2%}" for evaluation in evaluations.values()))
    first = next(iter(evaluations.values()))
    for far in first.tar_at_far:
        rates = [evaluation.tar_at_far[far] for evaluation in evaluations.values()]
        if None not in rates:
            table.add_row(f"TAR @ FAR = {far:g}", *(f"{rate:.2%}" for rate in rates))
    return table


def _ablation(arms: Iterable[Arm]) -> Table:
    first, *others = arms
    table = Table(
        "arm", "lr", "accuracy", *(f"TAR @ FAR = {far:g}" for far in first.tar_at_far), box=box.SIMPLE
    )
    for arm in (first, *others):
        cells = [_spread(arm.accuracy), *(_spread(arm.tar_at_far[far]) for far in first.tar_at_far)]
        table.add_row(arm.name, f"{arm.lr:.1e}", *cells)
    return table


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.2%} ± {spread.std:.2%}"
