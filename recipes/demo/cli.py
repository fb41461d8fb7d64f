"""``reparam-kit demo``: the main job on faces drawn in code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

import reparam_kit as rk


@click.command()
@click.option(
    "-o",
    "--output",
    default="demo-output",
    show_default=True,
    type=rk.OutputPath(),
    help="Folder to fill.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0, 2**63 - 1),
    help="Decides the faces and all training.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def demo(output: Path, seed: int, as_json: bool) -> None:
    """Improve a small deployed face net, all drawn and trained here, and prove that its graph stayed.

    Takes about two minutes on two cores and needs no network.
    """
    from recipes.demo.pipeline import run_demo
    from recipes.tsmr.progress import warnings_shown

    with warnings_shown():
        report = run_demo(output, seed, progress=True)
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report, output)


def _show(report: dict[str, Any], folder: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from recipes.faces.judging.evaluation import tar_name

    before, after, teacher = (report["evaluation"][name] for name in ("deployed", "improved", "teacher"))
    changes = {change["name"]: change["interval"] for change in report["comparison"]["differences"]}
    table = Table("people never seen in training", "before", "after", "gain, 95 %", "teacher", box=box.SIMPLE)
    rows = [("accuracy", [figures["accuracy"] for figures in (before, after, teacher)])]
    for far in before["tar_at_far"]:
        values = [figures["tar_at_far"][far] for figures in (before, after, teacher)]
        rows.append((tar_name(float(far)), values))
    for name, values in rows:
        if None not in values:
            old, new, best = (f"{value:.2%}" for value in values)
            interval = " to ".join(f"{100 * end:+.1f}" for end in changes.get(name) or ())
            table.add_row(name, old, new, interval, best)
    proof = report["verification"]
    console = Console(highlight=False, markup=False)
    stages = Table("stage", "epochs", f"{report['stages'][0]['figure']} by choose.bin", box=box.SIMPLE)
    for stage in report["stages"]:
        stages.add_row(stage["stage"], str(stage["epochs"]), f"{stage['value']:.2%}")
    console.print(stages)
    console.print(table)
    changed = len(proof["structure"]["payloads"])
    console.print(
        f"improved.onnx has the graph of deployed.onnx: 0 structural differences, {changed} weights differ"
    )
    console.print("file size {} -> {} bytes".format(*proof["file_sizes"]))
    for path in sorted(folder.iterdir()):
        console.print(rk.printable(f"  {path}  {path.stat().st_size / 1000:.0f} kB"))
