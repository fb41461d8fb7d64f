"""``reparam-kit demo``: the main job on faces drawn in code, with a table or JSON at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from recipes.demo.pipeline import DemoReport

_MEASURED = 10  # false accepts that a rate must allow to be shown: on fewer, chance decides


@click.command()
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder to write to.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides all that is random."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def demo(folder: Path, seed: int, as_json: bool) -> None:
    """Improve a small face net on faces drawn in code: about two minutes on two cores, nothing to download.

    A teacher and a student are trained from scratch and the student is exported. Then its ONNX file is improved with
    the teacher, proved to have kept its graph, and judged before and after on people that neither has seen.
    """
    from recipes.demo.pipeline import run

    report = run(folder, seed)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2))
    else:
        _show(report)


def _show(report: DemoReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = [report.figures[name] for name in ("before", "after", "teacher")]
    before = columns[0]
    table = Table("", "before", "after", "teacher", box=box.SIMPLE)
    table.add_row("accuracy", *(f"{column.accuracy:.2%}" for column in columns))
    for far in before.tar_at_far:
        if far * before.impostors >= _MEASURED:
            table.add_row(f"TAR @ FAR = {far:g}", *(f"{column.tar_at_far[far]:.2%}" for column in columns))
    console = Console(markup=False, highlight=False)
    console.print(f"{before.pairs:,} pairs of people that none of the three was trained on, in onnxruntime:")
    console.print(table)
    for name, text in report.trained_on.items():
        console.print(f"{name + ':':9}trained on {text}", soft_wrap=True)
    console.print(
        f"\nimproved.onnx against deployed.onnx: {report.nodes} nodes, {report.structural_differences} structural "
        f"differences, {report.changed_initializers} of {report.initializers} initializers differ, "
        f"latency ratio {report.latency_ratio:.2f}",
        soft_wrap=True,
    )
    console.print(
        f"improved.onnx against the model that was trained: relative error {report.write_back_error:.1e}\n",
        soft_wrap=True,
    )
    for path in sorted(report.folder.iterdir()):
        console.print(f"{path.stat().st_size / 1024:10,.0f} KiB  {path}", soft_wrap=True)
