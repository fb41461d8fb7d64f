"""The recipe on real faces: what the defaults come to, each of its parts, and what a step costs.

    python -m benchmarks.faces small WORK                   # trains and exports the small student
    python -m benchmarks.faces run WORK                     # MobileFaceNet, the defaults, an hour for each of 3 seeds
    python -m benchmarks.faces run WORK --student small
    python -m benchmarks.faces run WORK --arm all --steps 120 --device cuda
    python -m benchmarks.faces run WORK --arm pairs --steps 240 --share 0.7
    python -m benchmarks.faces judge WORK                   # judges every file that has not been
    python -m benchmarks.faces throughput WORK              # a step against the bare student, two minutes
    python -m benchmarks.faces summary WORK                 # writes benchmarks/results/faces.md

``--faces`` is the folder of the measuring data (default: ``../shared/faces``). Every command goes on where it was
interrupted. What trains never sees the people, impostors and pairs that judge; the run with the defaults is judged by
``people_dev`` and ``impostors_dev`` as it goes, which chooses its rate and its share (``--blind``: it is not).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import torch

import reparam_kit as rk
from benchmarks.faces.runs import (
    ARMS,
    DEFAULTS,
    Job,
    differences,
    file_of,
    job_of,
    judges,
    lines,
    run,
    students,
    verdicts,
)
from benchmarks.faces.student import train_small
from benchmarks.faces.summary import RESULT, write_summary
from benchmarks.faces.throughput import measure
from recipes.faces import FaceRecords, Verdict
from recipes.tsmr.schema import minutes

FACES = Path(__file__).parents[2].parent / "shared" / "faces"


@click.group()
def main() -> None:
    """The recipe on real faces."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


_WORK = click.argument("work", type=click.Path(path_type=Path))
_FACES = click.option("--faces", default=FACES, type=click.Path(path_type=Path, exists=True))
_DEVICE = click.option(
    "--device", default="cpu", show_default=True, callback=lambda *given: rk.choose_device(given[-1])
)


@main.command()
@_WORK
@_FACES
@click.option("--epochs", default=15, show_default=True)
def small(work: Path, faces: Path, epochs: int) -> None:
    """Train the small student on the identities of train.rec, and export it."""
    work.mkdir(parents=True, exist_ok=True)
    train_small(FaceRecords(faces / "train.rec"), work / "small.onnx", epochs)


@main.command(name="run")
@_WORK
@_FACES
@click.option("--student", "name", default="mobilefacenet", show_default=True)
@click.option(
    "--arm",
    "chosen",
    multiple=True,
    default=[DEFAULTS],
    show_default=True,
    help="All, or one such as 'pairs, mirrored + dbb'; again for more.",
)
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--teacher", default="teacher_mbf512", show_default=True)
@click.option("--teacher-input", default="insightface", show_default=True)
@click.option("--budget", help="Of a run with the defaults.  [default: 60m]")
@click.option("--steps", type=int, help="Of an arm.")
@click.option("--share", default=1.0, show_default=True, help="Of the way, that an arm goes.")
@click.option("--images", type=int, help="So many of the last file alone.")
@click.option("--blind", is_flag=True, help="Judge nothing during the run.")
@_DEVICE
def run_all(
    work: Path,
    faces: Path,
    name: str,
    chosen: tuple[str, ...],
    seeds: str,
    teacher: str,
    teacher_input: str,
    budget: str | None,
    steps: int | None,
    share: float,
    images: int | None,
    blind: bool,
    device: torch.device,
) -> None:
    """Run what is missing; each adds its line to WORK/runs.jsonl."""
    work.mkdir(parents=True, exist_ok=True)
    for one in ARMS if chosen == ("all",) else chosen:
        for seed in map(int, seeds.split(",")):
            job = Job(name, one, seed) if one == DEFAULTS else Job(name, one, seed, steps, share)
            if file_of(work, job).is_file():
                continue
            line = run(
                job,
                work,
                faces,
                faces / "models" / f"{teacher}.onnx",
                teacher_input,
                judged=one == DEFAULTS and not blind,
                images=images,
                budget=None if budget is None else minutes(budget),
                device=device,
            )
            _add(work / "runs.jsonl", line)


@main.command()
@_WORK
@_FACES
@click.option("--bootstrap", default=1000, show_default=True, help="Sets of people drawn for intervals.")
@_DEVICE
def judge(work: Path, faces: Path, bootstrap: int, device: torch.device) -> None:
    """Judge every file that has not been, against the deployed one; each adds its line to WORK/judged.jsonl."""
    known, found_by = lines(work / "judged.jsonl"), judges(faces, bootstrap)
    for name, student in students(work, faces).items():
        before: dict[str, Verdict] = {}
        for line in lines(work / "runs.jsonl"):
            job = job_of(line)
            if job.student != name or job in map(job_of, known):
                continue
            before = before or verdicts(student.file, student.preset, found_by, device)
            after = verdicts(file_of(work, job), student.preset, found_by, device)
            _add(work / "judged.jsonl", {**vars(job), "figures": differences(before, after, found_by)})


@main.command()
@_WORK
@_FACES
@click.option("--student", "name", default="mobilefacenet", show_default=True)
@click.option("--batch-size", default=128, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True)
def throughput(work: Path, faces: Path, name: str, batch_size: int, rounds: int, threads: int) -> None:
    """Images a second of a whole training step and of a bare student's forward and backward, in turns; each adds its
    line to WORK/throughput.jsonl.
    """
    for line in measure(name, students(work, faces)[name], faces, batch_size, rounds, threads):
        _add(work / "throughput.jsonl", line)


@main.command()
@_WORK
@_FACES
def summary(work: Path, faces: Path) -> None:
    """Write the tables of all runs so far."""
    write_summary(work)
    click.echo(f"wrote {RESULT}")


def _add(path: Path, line: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    click.echo(json.dumps(line))


if __name__ == "__main__":
    main()
