"""The runs of the experiment: what they are, which are missing, and how one is done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import reparam_kit as rk
from recipes.faces import FaceRecords, PairsJudge, Verdict
from recipes.tsmr import Stage, TSMRConfig
from recipes.tsmr.ablation import FINE_TUNING, arms, train_arm
from recipes.tsmr.targets.holdout import hold_out
from recipes.tsmr.targets.views import Images
from recipes.tsmr.training.trainer import DivergedError

_STAGE = Stage(epochs=15, cosine=1.0)
_REFINE = replace(_STAGE, epochs=5, rate=0.5, adversarial=0.005)


@dataclass(frozen=True)
class Student:
    """One deployed student and the runs that it gets.

    Attributes:
        deployed: its file.
        unseen: the file that rates are chosen with.
        config: the recipe.
        trial: epochs of each stage, or of the first ones, where a rate is tried.
        rates: that are tried where there is a teacher.
        label_rates: that are tried where there are only labels, which ask for lower ones.
        seeds: of the runs at the best of them.
    """

    deployed: str
    unseen: str
    config: TSMRConfig
    trial: tuple[int, ...]
    rates: tuple[float, ...]
    label_rates: tuple[float, ...]
    seeds: tuple[int, ...]

    def grid(self, arm: str) -> tuple[float, ...]:
        """The rates that are tried for ``arm``."""
        return self.label_rates if arm == FINE_TUNING else self.rates

    def choices(self, arm: str, held_out: bool) -> TSMRConfig:
        """What ``arm`` is trained with; all arms take as many epochs."""
        stages = self.config.plan.stages
        if held_out:
            stages = tuple(
                replace(stage, epochs=epochs) for stage, epochs in zip(stages, self.trial, strict=False)
            )
        return arms(replace(self.config, stages=stages))[arm]


def students(work: Path, faces: Path) -> dict[str, Student]:
    """By name: ``small`` and ``mobilefacenet``."""
    teachers = ("raw", "insightface")
    small = TSMRConfig(teacher_input=teachers, stages=(_STAGE, _REFINE), restore_bn=True)
    large = replace(
        small,
        student_input="imagenet",
        stages=(replace(_STAGE, epochs=2), replace(_REFINE, epochs=1)),
    )
    file = str(faces / "models" / "mobilefacenet.onnx")
    return {
        "small": Student(
            str(work / "small.onnx"),
            str(work / "small-unseen.onnx"),
            small,
            trial=(15, 5),
            rates=(1.5e-2, 5e-2, 1.5e-1),
            label_rates=(5e-4, 1.5e-3, 5e-3),
            seeds=(0, 1, 2),
        ),
        "mobilefacenet": Student(
            file,
            file,
            large,
            trial=(1,),
            rates=(3e-5, 3e-4),
            label_rates=(1e-5, 1e-4),
            seeds=(0, 1, 2),
        ),
    }


def teachers(faces: Path) -> list[Path]:
    """The two strong ones, each with its own embedding size."""
    return [faces / "models" / name for name in ("teacher_y1.onnx", "teacher_mbf512.onnx")]


@dataclass(frozen=True)
class Job:
    """One run of an arm: to try a rate without the people held out, or on all people."""

    student: str
    arm: str
    seed: int
    lr: float
    held_out: bool


def run_job(job: Job, work: Path, faces: Path, limit: int | None) -> dict[str, Any]:
    """Train and judge; ``limit`` takes the first images alone, to try the command out."""
    student = students(work, faces)[job.student]
    images: Images = images_of(faces, limit)
    judge = PairsJudge(faces / "lfw_dev.bin")
    if job.held_out:
        images, pairs = hold_out(images)
        judge = PairsJudge(pairs)
    config = replace(student.choices(job.arm, job.held_out), lr=job.lr, seed=job.seed)
    model = rk.load(student.unseen if job.held_out else student.deployed)
    name = f"{job.student}-{job.arm}{'-held-out' if job.held_out else ''}"
    start = time.perf_counter()
    try:
        figures = _figures(train_arm(model, teachers(faces), images, judge, config, work / "runs", name))
    except DivergedError:
        figures = {"accuracy": 0.0, "tar_at_far": {}, "d_prime": 0.0}
    return {**vars(job), "limit": limit, "seconds": round(time.perf_counter() - start), **figures}


def images_of(faces: Path, limit: int | None) -> Images:
    """The training images, or the first of them."""
    records: Images = FaceRecords(faces / "train.rec")
    return records if limit is None else torch.utils.data.Subset(records, range(limit))


def _figures(verdict: Verdict) -> dict[str, Any]:
    found = verdict.to_json()
    return {name: found[name] for name in ("accuracy", "tar_at_far", "d_prime")}


def results(work: Path) -> list[dict[str, Any]]:
    """The lines of ``runs.jsonl``."""
    path = work / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def missing(work: Path, faces: Path, names: tuple[str, ...]) -> Iterator[Job]:
    """The runs that have no line yet, in order; runs for the seeds follow once an arm's rates are all tried."""
    for name, student in students(work, faces).items():
        for arm in arms(student.config) if name in names else ():
            yield from (
                job
                for job in (Job(name, arm, 0, rate, True) for rate in student.grid(arm))
                if not _line(work, job)
            )
            lr = best_rate(work, name, arm)
            yield from (
                job
                for job in (Job(name, arm, seed, lr, False) for seed in student.seeds)
                if not _line(work, job)
            )


def _line(work: Path, job: Job) -> dict[str, Any] | None:
    return next((line for line in results(work) if vars(job).items() <= line.items()), None)


def best_rate(work: Path, student: str, arm: str) -> float:
    """The rate with the largest d' on the people held out: all scores decide, not the few near a threshold."""
    tried = [
        line
        for line in results(work)
        if (line["student"], line["arm"], line["held_out"]) == (student, arm, True)
    ]
    return float(max(tried, key=lambda line: line["d_prime"])["lr"])
