"""One run on real faces, and what all judges say of the file that it wrote."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
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
_CHANGED = {"crop": 0.2, "colour": 0.3, "low_resolution": 0.3, "occlusion": 0.2, "mix": 0.5}
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


ARMS = (
    "fine-tuning",
    "distillation",
    "distillation, restored BN",
    "pairs",
    "pairs, gallery 0.3",
    "pairs, twice the rate",
    "pairs, mirrored",
    "pairs, mirrored, asked",
    "pairs, mirrored, moved",
    "pairs, restored BN turned",
    "pairs + dbb",
    "pairs + orepa",
    "pairs + dbb, norm=batch",
    "pairs + EMA",
    *(f"pairs + {name}" for name in _ADVERSARIES),
)
"""What ``--arm all`` runs; an arm may be any start with any changes, see ``choices_of``."""


def choices_of(arm: str, student: Student) -> dict[str, Any]:
    """Return what an arm is trained with: how it starts, and what is changed in that, one after the other.

    Raises:
        InputError: there is no such start, or no such change.
    """
    start, *named = re.split(r", | \+ ", arm)
    choices = _choose(start, _starts(student), arm)
    for name in named:
        choices |= _choose(name, _changes(choices, student), arm)
    return choices


def _choose(name: str, known: dict[str, dict[str, Any]], arm: str) -> dict[str, Any]:
    if name not in known:
        raise rk.InputError(f"arm {arm!r}: {rk.suggestion(name, sorted(known), 'choices')}")
    return known[name]


def _starts(student: Student) -> dict[str, dict[str, Any]]:
    plain = {"block": None, "restore_bn": False, "augment": Augment(), "lr": student.rate}
    return {
        "fine-tuning": {**plain, "lr": student.rate / 3, "losses": {"margin": 1.0}},
        "distillation": {**plain, "losses": {"cosine": 1.0}},
        "pairs": {**plain, "restore_bn": student.restore_bn, "losses": student.losses},
    }


def _changes(choices: dict[str, Any], student: Student) -> dict[str, dict[str, Any]]:
    losses, augment = choices["losses"], choices["augment"]
    return {
        "restored BN": {"restore_bn": True},
        "restored BN turned": {"restore_bn": not student.restore_bn},
        "twice the rate": {"lr": 2 * choices["lr"]},
        "mirrored": {"augment": replace(augment, mirror=0.5)},
        "asked": {"augment": replace(augment, mirror=0.0), "flip": True},
        "moved": {"augment": replace(augment, affine=1.0)},
        **{name: {"augment": replace(augment, **{name: share})} for name, share in _CHANGED.items()},
        "live": {"views": "live"},
        "dbb": {"block": "dbb"},
        "orepa": {"block": "orepa"},
        "norm=batch": {"norm": "batch"},
        "EMA": {"ema": 0.99},
        "gallery 0.3": {"losses": {**losses, "gallery": 0.3}},
        **{name: {"losses": {**losses, name: weight}} for name, weight in _ADVERSARIES.items()},
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
    choices = choices_of(job.arm, student)
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
        "augment": {name: share for name, share in asdict(report.config.augment).items() if share},
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
