"""``reparam-kit tsmr``: the recipe on files, resumable, with a table or JSON at the end."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

import reparam_kit as rk
from recipes.faces.inputs import PRESETS
from recipes.tsmr.config import LOSSES, TSMRConfig

if TYPE_CHECKING:
    from recipes.tsmr.report import TSMRReport

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("student")
@click.option("--teacher", required=True, type=_FILE, help="Stronger model (.onnx).")
@click.option("--data", required=True, type=_FILE, help="Training images (.rec).")
@click.option("--val", type=_FILE, help="Verification set (.bin): the best epoch on it is kept.")
@click.option("-o", "--output", required=True, type=_FILE, help="File to write.")
@click.option(
    "--student-input", metavar="PRESET", help=f"What the student expects, required: {', '.join(PRESETS)}."
)
@click.option("--teacher-input", metavar="PRESET", help="What the teacher expects, required.")
@click.option(
    "--block",
    default=TSMRConfig.block,
    show_default=True,
    help="What a convolution is expanded to: a preset, an expression, or 'plain' to train it as it is.",
)
@click.option("--norm", default=TSMRConfig.norm, show_default=True, help="Norm of the branches.")
@click.option("--loss", default=TSMRConfig.loss, show_default=True, help=f"Loss: {', '.join(LOSSES)}.")
@click.option(
    "--epochs", type=int, default=TSMRConfig.epochs, show_default=True, help="Passes over the images."
)
@click.option(
    "--batch-size", type=int, default=TSMRConfig.batch_size, show_default=True, help="Images a step."
)
@click.option("--lr", type=float, default=TSMRConfig.lr, show_default=True, help="Peak learning rate.")
@click.option(
    "--seed", type=int, default=TSMRConfig.seed, show_default=True, help="Decides all that is random."
)
@click.option(
    "--workers", type=int, default=TSMRConfig.workers, show_default=True, help="Processes that decode images."
)
@click.option("--device", default="cpu", show_default=True, help="Where to train, such as cuda.")
@click.option(
    "--work",
    type=_FILE,
    help="Folder of the checkpoint and the teacher's embeddings; the same command again goes on from there. "
    "[default: OUTPUT.work]",
)
@click.option("--weights", type=_FILE, help="State dict for package.module:factory.")
@click.option("--unsafe-load", is_flag=True, help="Unpickle a .pt file, which can run code that it carries.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def tsmr(
    student: str,
    teacher: Path,
    data: Path,
    val: Path | None,
    output: Path,
    student_input: str | None,
    teacher_input: str | None,
    block: str,
    device: str,
    work: Path | None,
    weights: Path | None,
    unsafe_load: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Train STUDENT, expanded, to give the embeddings of a stronger teacher, and fold it back.

    STUDENT is a .onnx file, a .pt file, or package.module:factory with --weights FILE. What is written has
    the graph of STUDENT and new weights. If no epoch beats STUDENT on --val, it has the weights of STUDENT.
    """
    if student_input is None or teacher_input is None:
        raise rk.InputError(
            "--student-input and --teacher-input are required and have no default: a wrong channel order or "
            f"normalisation costs accuracy without any error; choose from {', '.join(PRESETS)}"
        )
    config = TSMRConfig(
        block=None if block == "plain" else block,
        student_input=student_input,
        teacher_input=teacher_input,
        **choices,
    )
    from recipes.tsmr.recipe import apply_tsmr

    model = rk.load(student, weights=weights, unsafe=unsafe_load)
    work = work or output.with_name(f"{output.name}.work")
    try:
        work.mkdir(exist_ok=True)
    except OSError as error:
        raise rk.InputError(f"the folder {work} cannot be made: {error.strerror}") from error
    with TemporaryDirectory(dir=work) as rehearsal:  # before hours of training: can this model be written so?
        rk.save(model, Path(rehearsal) / output.name)
    result = apply_tsmr(
        model.to(_device(device)), teacher, data, val, config, cache=work, checkpoint=work / "checkpoint.pt"
    )
    rk.save(result.model.cpu(), output)
    difference = None
    if student.endswith(".onnx") and output.suffix == ".onnx":
        difference = rk.diff(student, output)
        if not difference.same_graph:
            raise rk.VerificationError(f"{output} has another graph than {student}: {difference}")
    if as_json:
        written = {"output": str(output), "diff": difference and difference.to_json()}
        click.echo(json.dumps({**written, **result.report.to_json()}, indent=2))
        return
    if result.report.before is not None:
        _show(result.report)
    changed = (
        "" if difference is None else f": the graph of {student}, {len(difference.payloads)} weights differ"
    )
    click.echo(f"{output}{changed}")


def _device(name: str) -> Any:
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        raise rk.InputError(f"--device {name}: {str(error).splitlines()[0]}") from error


def _show(report: TSMRReport) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    assert report.before is not None
    assert report.after is not None
    table = Table("", "before", "after", box=box.SIMPLE)
    table.add_row("accuracy", f"{report.before.accuracy:.2%}", f"{report.after.accuracy:.2%}")
    for far, before in report.before.tar_at_far.items():
        after = report.after.tar_at_far[far]
        if before is not None and after is not None:
            table.add_row(f"TAR @ FAR = {far:g}", f"{before:.2%}", f"{after:.2%}")
    console = Console()
    console.print(table)
    if report.kept:
        console.print(f"kept: epoch {report.kept} of {len(report.epochs)}, the best on this set")
    else:
        console.print(
            f"none of {len(report.epochs)} epochs beat the student on this set: its weights are kept"
        )
