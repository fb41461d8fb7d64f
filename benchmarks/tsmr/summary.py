"""The table of all runs so far."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import reparam_kit as rk
from benchmarks.tsmr.jobs import Student, best_rate, results, students
from recipes.faces import evaluate
from recipes.tsmr.ablation import arms
from recipes.tsmr.results import Spread

RESULT = Path(__file__).parents[1] / "results" / "tsmr.md"

_HOW = """Each arm was trained at each learning rate of a grid on four fifths of the people of `train.rec`, and judged
on pairs of the others; then, at the rate that did best there, on all people, once for each seed. The last epoch is
judged on `lfw_dev.bin` (600 genuine and 600 impostor pairs of other people, no flip; a FAR of 1e-3 needs 1,000):
nothing was chosen on it. All arms of a student are shown as many images. Mean and standard deviation over the seeds."""


def write_summary(work: Path, faces: Path) -> None:
    """Write ``RESULT`` from the lines in ``work``."""
    text = ["# TSMR on real faces", "", "`python -m benchmarks.tsmr all WORK`", "", _HOW, ""]
    for name, student in students(work, faces).items():
        text += [f"## {name}", "", *_table(work, faces, name, student), "", *_trials(work, name, student), ""]
    measured = work / "throughput.json"
    if measured.is_file():
        text += ["## Images a second", "", *_throughput(json.loads(measured.read_text()))]
    RESULT.parent.mkdir(exist_ok=True)
    with rk.atomic_file(RESULT) as file:
        file.write(("\n".join(text).rstrip() + "\n").encode())


def _throughput(lines: list[dict[str, Any]]) -> Iterator[str]:
    yield "`python -m benchmarks.tsmr throughput WORK`: a whole step, and forward and backward of the same student"
    yield "without branches, in turns."
    yield ""
    yield "| student | its BatchNorms | threads | stage | bare forward and backward | step | ratio |"
    yield "|---|---|---|---|---|---|---|"
    for line in lines:
        yield (
            f"| {line['student']} | {'restored' if line['restored'] else 'folded, as deployed'} | {line['threads']} | "
            f"{line['stage']} | {line['bare']:.0f} | {line['step']:.0f} | {line['step'] / line['bare']:.2f} |"
        )


def _table(work: Path, faces: Path, name: str, student: Student) -> Iterator[str]:
    before = evaluate(student.deployed, faces / "lfw_dev.bin", student.config.student_input)
    yield "| arm | lr | seeds | accuracy | d' | TAR at FAR 1e-2 | TAR at FAR 1e-3 |"
    yield "|---|---|---|---|---|---|---|"
    tars = before.tar_at_far
    yield (
        f"| as deployed | | | {before.accuracy:.2%} | {before.d_prime:.2f} | {_rate(tars[1e-2])} | "
        f"{_rate(tars[1e-3])} |"
    )
    for arm in arms(student.config):
        lines = _lines(work, student=name, arm=arm, held_out=False)
        if lines:
            lr = best_rate(work, name, arm)
            lines = [line for line in lines if line["lr"] == lr]
            separation = Spread.of([line["d_prime"] for line in lines])
            cells = [
                _spread([line["accuracy"] for line in lines]),
                f"{separation.mean:.2f} ± {separation.std:.2f}",
                *(_spread([line["tar_at_far"].get(far) for line in lines]) for far in ("0.01", "0.001")),
            ]
            yield f"| {arm} | {lr:g} | {len(lines)} | {' | '.join(cells)} |"


def _trials(work: Path, name: str, student: Student) -> Iterator[str]:
    yield f"d' (and accuracy) on the people held out, after {' + '.join(map(str, student.trial))} epochs at each rate:"
    yield ""
    for arm in arms(student.config):
        tried = (
            f"{line['lr']:g}: {line['d_prime']:.2f} ({line['accuracy']:.1%})"
            for line in sorted(
                _lines(work, student=name, arm=arm, held_out=True), key=lambda line: line["lr"]
            )
        )
        yield f"- {arm}: {', '.join(tried)}"


def _lines(work: Path, **which: Any) -> list[dict[str, Any]]:
    return [line for line in results(work) if which.items() <= line.items()]


def _rate(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.2%}"


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "not measurable"
    spread = Spread.of(known)
    return f"{spread.mean:.2%} ± {spread.std:.2%}"
