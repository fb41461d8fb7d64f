"""TSMR on real faces: two deployed students, their controls, and what a step costs.

    python -m benchmarks.tsmr prepare WORK        # trains and exports the small student
    python -m benchmarks.tsmr all WORK            # every run that is still missing, one process each
    python -m benchmarks.tsmr throughput WORK     # images a second of a step, against a bare student
    python -m benchmarks.tsmr summary WORK        # writes benchmarks/results/tsmr.md

``--faces`` is the folder of the measuring data (default: ``../shared/faces``). All commands go on where they were
interrupted. ``all`` first trains each arm at each learning rate on four fifths of the people and judges on pairs of
the others; then, at the rate that did best there, on all people, a run for each seed, of which the last epoch is
judged on ``lfw_dev.bin``. Every run is a line of ``WORK/runs.jsonl``.

The small student is a stack of standard 3x3 convolutions that halves the image four times (about 0.3 M parameters),
trained on the identities of ``train.rec`` with a margin softmax and exported as deployed nets are. For the choice of
rates a second one is used, which has not seen the people held out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.tsmr.jobs import Job, images_of, missing, run_job, students
from benchmarks.tsmr.student import train_small
from benchmarks.tsmr.summary import RESULT, write_summary
from benchmarks.tsmr.throughput import measure
from recipes.faces import evaluate
from recipes.tsmr.targets.holdout import hold_out

FACES = Path(__file__).parents[2].parent / "shared" / "faces"

EPOCHS_ON_IDENTITIES = 15


@click.group()
def main() -> None:
    """TSMR on real faces: two deployed students, their controls, and what a step costs."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


_WORK = click.argument("work", type=click.Path(path_type=Path))
_FACES = click.option("--faces", default=FACES, type=click.Path(path_type=Path, exists=True))
_LIMIT = click.option("--limit", type=int, help="First images alone, to try the command out.")


@main.command()
@_WORK
@_FACES
@_LIMIT
def prepare(work: Path, faces: Path, limit: int | None) -> None:
    """Train and export the small student, and the one that has not seen the people held out."""
    work.mkdir(parents=True, exist_ok=True)
    images = images_of(faces, limit)
    for path, seen in ((work / "small.onnx", images), (work / "small-unseen.onnx", hold_out(images)[0])):
        if not path.is_file():
            train_small(seen, path, EPOCHS_ON_IDENTITIES if limit is None else 1)
        accuracy = evaluate(path, faces / "lfw_dev.bin").accuracy
        click.echo(f"{path}: accuracy {accuracy:.2%} on lfw_dev.bin")


@main.command()
@_WORK
@_FACES
@_LIMIT
@click.option("--student", required=True)
@click.option("--arm", required=True)
@click.option("--seed", default=0)
@click.option("--lr", type=float, required=True)
@click.option("--held-out", is_flag=True)
def run(work: Path, faces: Path, limit: int | None, **choices: Any) -> None:
    """One run; its line is added to WORK/runs.jsonl."""
    line = run_job(Job(**choices), work, faces, limit)
    with (work / "runs.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    click.echo(json.dumps(line))


@main.command(name="all")
@_WORK
@_FACES
@_LIMIT
@click.option("--student", "names", multiple=True, default=("small", "mobilefacenet"), show_default=True)
def run_all(work: Path, faces: Path, limit: int | None, names: tuple[str, ...]) -> None:
    """Every run that is missing, one after the other, each in a process of its own."""
    while job := next(missing(work, faces, names), None):
        command = [
            sys.executable, "-m", "benchmarks.tsmr", "run", str(work), "--faces", str(faces),
            "--student", job.student, "--arm", job.arm, "--seed", str(job.seed), "--lr", repr(job.lr),
        ]  # fmt: skip
        command += ["--held-out"] * job.held_out + (["--limit", str(limit)] if limit else [])
        subprocess.run(command, check=True)


@main.command()
@_WORK
@_FACES
@click.option("--batch-size", default=64, show_default=True)
@click.option("--rounds", default=15, show_default=True)
def throughput(work: Path, faces: Path, batch_size: int, rounds: int) -> None:
    """Images a second of a whole training step and of a bare student's forward and backward, in turns."""
    lines = []
    for name, student in students(work, faces).items():
        for line in measure(name, student.deployed, student.config, faces / "train.rec", batch_size, rounds):
            click.echo(json.dumps(line))
            lines.append(line)
    (work / "throughput.json").write_text(json.dumps(lines))


@main.command()
@_WORK
@_FACES
def summary(work: Path, faces: Path) -> None:
    """Write the table of all runs so far."""
    write_summary(work, faces)
    click.echo(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
