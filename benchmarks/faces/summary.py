"""The tables of all runs so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import reparam_kit as rk
from benchmarks.faces.runs import DEFAULTS, job_of, lines

RESULT = Path(__file__).parents[1] / "results" / "faces.md"

COLUMNS = {
    "people: TAR at FAR 0.001, mixed": "mixed TAR@1e-3",
    "people: TAR at FAR 1e-05, mixed": "mixed 1e-5",
    "people: TAR at FAR 1e-06, mixed": "mixed 1e-6",
    "people: TAR at FAR 0.001": "own TAR@1e-3",
    "people: TAR at FAR 0.0001": "own 1e-4",
    "people: TAR at FAR 1e-05": "own 1e-5",
    "people: rank-1": "rank-1",
    "LFW: accuracy": "LFW",
    "CFP-FP: accuracy": "CFP-FP",
    "CFP-FP: TAR at FAR 0.01": "CFP-FP TAR@1e-2",
}

_HOW = """What is judged are the files that were written, against the deployed one, on people and faces that no run was
trained on: `people_dev` by the thresholds of its own impostor pairs ("own") and by those of `impostors_dev` ("mixed"),
LFW folds 6 and 7, CFP-FP folds 1 to 3. Mean and standard deviation over the seeds, in percent; below, how many of the
seeds are better, or worse, by more than chance (95 %, people or pairs drawn again)."""


def write_summary(work: Path) -> None:
    """Write ``RESULT`` from the lines in ``work``."""
    text = ["# The recipe on real faces", "", "`python -m benchmarks.faces`", "", _HOW, ""]
    judged = lines(work / "judged.jsonl")
    for student in dict.fromkeys(line["student"] for line in judged):
        text += [f"## {student}", "", *_table([line for line in judged if line["student"] == student]), ""]
        text += [*_beside_pairs([line for line in judged if line["student"] == student]), ""]
        text += [*_runs([line for line in lines(work / "runs.jsonl") if line["student"] == student]), ""]
    if measured := lines(work / "throughput.jsonl"):
        text += ["## Images a second", "", *_throughput(measured)]
    with rk.atomic_file(RESULT) as file:
        file.write(("\n".join(text).rstrip() + "\n").encode())


def _table(judged: list[dict[str, Any]]) -> Iterator[str]:
    names = [name for name in COLUMNS if name in judged[0]["figures"]]
    yield f"| | {' | '.join(COLUMNS[name] for name in names)} |"
    yield f"|---|{'---|' * len(names)}"
    deployed = [100 * judged[0]["figures"][name]["before"] for name in names]
    yield f"| deployed | {' | '.join(f'{value:.1f}' for value in deployed)} |"
    for arm in dict.fromkeys(str(job_of(line)) for line in judged):
        figures = [line["figures"] for line in judged if str(job_of(line)) == arm]
        seeds = f"{len(figures)} seed{'s' * (len(figures) > 1)}"
        yield f"| {arm}, {seeds} | {' | '.join(_cell([f[name] for f in figures]) for name in names)} |"


def _beside_pairs(judged: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what each arm adds to the usual losses without branches, of as many steps and seed by seed."""
    pairs = {replace(job, arm=""): line["figures"] for line in judged if (job := job_of(line)).arm == "pairs"}
    others = [line for line in judged if replace(job := job_of(line), arm="") in pairs and job.arm != "pairs"]
    if not others:
        return
    names = [name for name in COLUMNS if name in others[0]["figures"]]
    yield "Beside `pairs` of as many steps, seed by seed, in points:"
    yield ""
    yield f"| | {' | '.join(COLUMNS[name] for name in names)} |"
    yield f"|---|{'---|' * len(names)}"
    for arm in dict.fromkeys(str(job_of(line)) for line in others):
        lines = [line for line in others if str(job_of(line)) == arm]
        added = [
            [
                100 * (line["figures"][name]["after"] - pairs[replace(job_of(line), arm="")][name]["after"])
                for line in lines
            ]
            for name in names
        ]
        yield f"| {arm} | {' | '.join(map(_added, added))} |"


def _added(values: list[float]) -> str:
    return f"{mean(values):+.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _cell(found: list[dict[str, Any]]) -> str:
    values = [100 * one["after"] for one in found]
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    sure = [one for one in found if one["chance"] is not None and one["chance"] < 0.05]
    better = sum(one["difference"] > 0 for one in sure)
    told = f"; {better} better" * bool(better) + f"; {len(sure) - better} worse" * (len(sure) > better)
    return f"{mean(values):.1f}{spread}{told}"


def _runs(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what was chosen in each run with the defaults, and in all runs of each arm, which do not differ."""
    for arm in dict.fromkeys(str(job_of(line)) for line in runs):
        seeds = [line for line in runs if str(job_of(line)) == arm]
        for line in seeds if arm == DEFAULTS else seeds[:1]:
            changes, losses = (
                [f"{name} {value:g}" for name, value in line[part].items()] for part in ("augment", "losses")
            )
            told = f", seed {line['seed']}" * (arm == DEFAULTS)
            alike = [line] if arm == DEFAULTS else [one for one in seeds if one["device"] == line["device"]]
            yield (
                f"- {arm}{told}: {line['images']:,} images, {line['taken']} steps, "
                f"{mean(one['minutes'] for one in alike):.1f} minutes on {line['device']}, lr {line['lr']:g}"
                f"{', restored BN' * line['restore_bn']}, {', '.join(changes + losses)}, "
                f"share {line['found']:g}"
            )
            for trial in line["trials"]:
                yield f"  - trial: {trial}"


def _throughput(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "`python -m benchmarks.faces throughput WORK`: a whole step with its losses and a full memory, and forward"
    yield "and backward of the same student without branches, in turns; with one thread by processor time."
    yield ""
    yield "| student | batch | branches | threads | bare forward and backward | step | ratio (range) |"
    yield "|---|---:|---|---:|---:|---:|---|"
    for line in found:
        low, high = line["spread"]
        yield (
            f"| {line['student']}{', restored BN' * line['restored']} | {line['batch']} | {line['block'] or 'none'} | "
            f"{line['threads']} | {line['bare']:.0f} | {line['step']:.0f} | {line['ratio']:.2f} "
            f"({low:.2f} to {high:.2f}) |"
        )
