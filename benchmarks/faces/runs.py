"""One run on real faces, and what all judges say of the file that it wrote."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

import benchmarks.faces.adversaries  # noqa: F401 known by their names
import reparam_kit as rk
from recipes.faces import FaceParts, Judge, PairsJudge, PeopleJudge, Verdict, read_faces
from recipes.tsmr import Augment, Stage, TSMRConfig, apply_tsmr
from recipes.tsmr.candidates import LEARN
from recipes.tsmr.targets.views import Images

DEFAULTS = "defaults"

_NEAR = {"pairs": 0.1, "gallery": 0.5}
_ADVERSARIES = {
    "adversarial": 0.005,
    "adversarial_profiles": 0.02,
    "adversarial_neighbours": 0.02,
    "adversarial_pairs": 0.02,
    "adversarial_hinge": 0.005,
    "perturbed": 0.1,
}


@dataclass(frozen=True)
class Student:
    """A deployed file and what it is trained with.

    Attributes:
        file: of the student.
        preset: its input.
        data: of ``faces``, the training images.
        rate: by which its arms are trained, found by a run with the defaults.
        losses: of its arms; those of the default were found by their sweep.
        restore_bn: likewise.
    """

    file: Path
    preset: str
    data: tuple[str, ...]
    rate: float
    losses: dict[str, float]
    restore_bn: bool


def students(work: Path, faces: Path) -> dict[str, Student]:
    """By name: ``mobilefacenet``, 1.0 M parameters, and ``small``, 0.26 M."""
    large = faces / "models" / "mobilefacenet.onnx"
    return {
        "mobilefacenet": Student(large, "imagenet", ("train.rec", "pool.rec"), 2e-4, _NEAR, False),
        "small": Student(work / "small.onnx", "insightface", ("train.rec", "pool.rec"), 3e-3, LEARN, True),
    }


def arms(student: Student) -> dict[str, dict[str, Any]]:
    """Return what each arm is trained with, by name: the same steps for all."""
    ours: dict[str, Any] = {
        "lr": student.rate,
        "restore_bn": student.restore_bn,
        "losses": student.losses,
        "block": None,
    }
    plain = {"block": None, "restore_bn": False}
    return {
        "fine-tuning": {**plain, "lr": student.rate / 3, "losses": {"margin": 1.0}},
        "distillation": {**plain, "lr": student.rate, "losses": {"cosine": 1.0}},
        "distillation, restored BN": {**ours, "losses": {"cosine": 1.0}},
        "pairs": ours,
        "pairs, gallery 0.3": {**ours, "losses": _NEAR | {"gallery": 0.3}},
        "pairs, twice the rate": {**ours, "lr": 2 * student.rate},
        "pairs, mirrored": {**ours, "augment": Augment(mirror=0.5)},
        "pairs, mirrored, asked": {**ours, "flip": True},
        "pairs, restored BN turned": {**ours, "restore_bn": not student.restore_bn},
        "pairs + dbb": {**ours, "block": "dbb"},
        "pairs + orepa": {**ours, "block": "orepa"},
        "pairs + dbb, norm=batch": {**ours, "block": "dbb", "norm": "batch"},
        "pairs + EMA": {**ours, "ema": 0.99},
        **{
            f"pairs + {name}": {**ours, "losses": {**student.losses, name: weight}}
            for name, weight in _ADVERSARIES.items()
        },
    }


@dataclass(frozen=True)
class Job:
    """A run: of which student, by which arm, with which seed.

    Attributes:
        steps: of an arm; None: as many as there is time for.
        share: of the way to its weights that is gone; None: as the run finds best.
    """

    student: str
    arm: str
    seed: int
    steps: int | None = None
    share: float | None = None

    def __str__(self) -> str:
        steps = f", {self.steps} steps" if self.steps else ""
        return f"{self.arm}{steps}" + (
            f", {self.share:g} of the way" if self.share not in (None, 1.0) else ""
        )


def config_of(job: Job, student: Student, teacher_input: str, budget: float | None) -> TSMRConfig:
    """Return the choices of a run; ``budget`` is that of one with the defaults."""
    given = {"student_input": student.preset, "teacher_input": teacher_input, "seed": job.seed}
    if job.arm == DEFAULTS:
        return TSMRConfig(**given, budget=budget)
    choices = dict(arms(student)[job.arm])
    stages = (Stage(1, losses=choices.pop("losses")),)
    length = {"steps": job.steps, "share": job.share}
    return TSMRConfig(**given, stages=stages, batch_size=128, **choices, **length)


def judges(faces: Path, bootstrap: int) -> dict[str, Judge]:
    """Those that tell whether a model is better, by name."""
    return {
        "people": PeopleJudge(faces / "people_dev.rec", faces / "impostors_dev.rec", bootstrap=bootstrap),
        "LFW": PairsJudge(faces / "lfw_dev.bin"),
        "CFP-FP": PairsJudge(faces / "cfp_fp_dev.bin"),
    }


def run(
    job: Job,
    work: Path,
    faces: Path,
    teacher: Path,
    teacher_input: str,
    *,
    judged: bool,
    images: int | None,
    budget: float | None,
    device: torch.device,
) -> dict[str, Any]:
    """Train, write ``file_of`` it, and return what was chosen; ``judged``: by ``people`` as it goes."""
    student = students(work, faces)[job.student]
    config = config_of(job, student, teacher_input, budget)
    val = judges(faces, 1000)["people"] if judged else None
    start = time.monotonic()
    result = apply_tsmr(
        rk.load(student.file).to(device), teacher, data_of(student, faces, images), val, config,
        cache=work / f"cache-{job.student}", progress=True,
    )  # fmt: skip
    rk.save(result.model, file_of(work, job))
    report = result.report
    return {
        **vars(job),
        "device": device.type,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "images": report.images,
        "taken": report.config.total_epochs * (report.config.steps or 0),
        "lr": report.config.lr,
        "restore_bn": report.config.restore_bn,
        "mirrored": report.config.augment.mirror,
        "losses": report.config.plan.stages[0].losses,
        "found": report.share,
        "trials": [trial.told for trial in report.trials],
    }


def data_of(student: Student, faces: Path, images: int | None) -> Images:
    """Return the training images; with ``images``, so many of the last file alone, as a user's folder of photos."""
    if images is not None:
        return Subset(read_faces(faces / student.data[-1]), range(images))
    return FaceParts([faces / name for name in student.data])


def file_of(work: Path, job: Job) -> Path:
    """Return where the model of a run is written."""
    name = str(job).translate(str.maketrans({" ": "", "+": "", ",": "-", "=": "-"}))
    return work / f"{job.student}-{name}-{job.seed}.onnx"


def verdicts(file: Path, preset: str, judges: dict[str, Judge], device: torch.device) -> dict[str, Verdict]:
    """Return what each judge says of a file: as onnxruntime runs it, or on a GPU as the module that is its import."""
    model = file if device.type == "cpu" else rk.load(file).to(device)
    return {name: judge.judge(model, preset) for name, judge in judges.items()}


def differences(
    before: Mapping[str, Verdict], after: Mapping[str, Verdict], judges: Mapping[str, Judge]
) -> dict[str, Any]:
    """Return what became of each figure of each judge."""
    return {
        f"{name}: {change.before.name}": change.to_json()
        for name, judge in judges.items()
        for change in judge.compare(before[name], after[name]).differences
        if change.after.value is not None
    }


def job_of(line: dict[str, Any]) -> Job:
    """Return the run that a line of results tells of."""
    return Job(**{name: line[name] for name in Job.__annotations__})


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of results; none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
