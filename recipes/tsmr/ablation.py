"""The controls that a gain is held against: the same images and seeds, each at its own best learning rate.

Branches raise the effective learning rate, so arms that are compared at one rate prove nothing. Every arm
gets the rate of a small grid that does best on people, or images of each class, held out from its training; then it
is trained on all images, a run for each seed, and its last epoch is judged. Nothing is chosen on the set that judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from torch import nn
from torch.utils.data import IterableDataset

from recipes.faces import Judge, PairsJudge, Verdict, read_faces
from recipes.faces.judging.reading import Judged
from recipes.progress import Progress, labelled
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.ingredients import logits_of_student
from recipes.tsmr.parts import Ablation
from recipes.tsmr.recipe import apply_tsmr
from recipes.tsmr.results import Arm
from recipes.tsmr.stages import Stage
from recipes.tsmr.targets.auto import with_auto
from recipes.tsmr.targets.holdout import hold_out, hold_out_of_classes
from recipes.tsmr.targets.teachers import Teacher, Weights, open_teachers
from recipes.tsmr.targets.views import Images, Views
from recipes.tsmr.training.callbacks import Callback
from recipes.tsmr.training.checks import judges_of, taught
from recipes.tsmr.training.trainer import DivergedError
from reparam_kit import InputError

_DEFAULTS = Ablation()

FINE_TUNING, DISTILLATION, BRANCHES, TSMR = (
    "fine-tuning",
    "distillation",
    "distillation + branches",
    "TSMR",
)


def arms(config: TSMRConfig) -> dict[str, TSMRConfig]:
    """Return the recipe of ``config`` and its controls, by name, each with as many epochs.

    - "fine-tuning": the labels alone (of embeddings margin softmax on the identities), no teacher, no branches
    - "distillation": the first stage's losses for all epochs, without branches
    - "distillation + branches": the same on the expanded net
    - "TSMR": ``config``
    """
    config = replace(config, stages=config.plan.stages, epochs=None, budget=None, auto=None)
    losses = {**config.plan.stages[0].losses, "adversarial": 0.0}
    first = Stage(config.total_epochs, losses=losses)
    labels = Stage(config.total_epochs, losses={"labels" if config.task == "logits" else "margin": 1.0})
    return {
        FINE_TUNING: replace(config, block=None, stages=(labels,)),
        DISTILLATION: replace(config, block=None, stages=(first,)),
        BRANCHES: replace(config, stages=(first,)),
        TSMR: config,
    }


class Comparable(Callback):
    """Refuses, before anything is trained, images whose controls could not be judged: the arguments of ``compare``."""

    def __init__(self, model: nn.Module, data: str | Path | Images, val: Judged | Sequence[Judged]) -> None:
        self._given = model, data, val

    def start(self, config: TSMRConfig, done: int) -> None:
        if config.task == "maps":
            raise InputError("controls (--compare) are judged on images held out, and nothing judges maps")
        model, data, val = self._given
        images, _ = _apart(model, data, val, config)
        try:
            _hold_out(model, images, config)
        except InputError as error:
            raise InputError(f"{error}; leave --compare out, or give other images") from error


def _apart(
    model: nn.Module, data: str | Path | Images, val: Judged | Sequence[Judged], config: TSMRConfig
) -> tuple[Images, Judged | Sequence[Judged]]:
    """Return the images without those that "auto" in ``val`` holds out, and the judges."""
    if isinstance(data, IterableDataset):
        raise InputError(
            "controls are compared on images held out, which cannot be told beforehand in a stream"
        )
    data, val, _ = with_auto(data, val, partial(logits_of_student, model, config))  # type: ignore[assignment]
    return (read_faces(data) if isinstance(data, str | Path) else data), val


def _hold_out(model: nn.Module, images: Images, config: TSMRConfig) -> tuple[Images, Judge, TSMRConfig]:
    """Return the images without some that are held out, what judges by these, and the choices with the task."""
    logits = logits_of_student(model, config, images)
    if logits is not None:
        return *hold_out_of_classes(images, logits), replace(config, task="logits")
    part, pairs = hold_out(images)
    return part, PairsJudge(pairs), replace(config, task="embeddings")


def default_rates(config: TSMRConfig) -> tuple[float, ...]:
    """Return a grid around the rate of ``config``."""
    lr = config.plan.lr
    return (lr / 3, lr, lr * 3)


def train_arm(
    model: nn.Module,
    teacher: Teacher | Sequence[Teacher],
    data: Images,
    judge: Judge,
    config: TSMRConfig,
    folder: Path,
    name: str,
    progress: bool = False,
    teacher_weights: Weights = None,
) -> tuple[Verdict, int]:
    """Train one run, without choosing an epoch: its last one by ``judge``, and how many images it was shown. Goes on
    from ``folder/name.pt``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name.replace(' ', '')}-lr{config.plan.lr!r}-seed{config.seed}.pt"
    result = apply_tsmr(
        model, teacher, data, None, replace(config, decides=None, share=1.0),
        teacher_weights=teacher_weights, cache=folder, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    shown = result.report.curve[-1].step * result.report.config.images_of_step(Processes.current().count)
    return judge.judge(result.model, config.student_input, config.student_output), shown


def compare(
    model: nn.Module,
    teacher: Teacher | Sequence[Teacher],
    data: str | Path | Images,
    val: Judged | Sequence[Judged],
    config: TSMRConfig,
    folder: str | Path,
    *,
    ablation: Ablation = _DEFAULTS,
    teacher_weights: Weights = None,
    progress: bool = False,
) -> tuple[Arm, ...]:
    """Train the recipe and its controls, see ``arms``; the arguments are those of ``apply_tsmr``.

    Args:
        folder: for teacher embeddings and a checkpoint of every run; the same call goes on from there.
        ablation: seeds and learning rates.
        teacher_weights, progress: as those of ``apply_tsmr``.

    Raises:
        InputError: as ``apply_tsmr`` and ``hold_out``.
        DivergedError: an arm does at every rate, or with another seed than its rate was chosen with.
    """
    rates = ablation.rates or default_rates(config)
    folder = Path(folder)
    images, val = _apart(model, data, val, config)
    part, on_held_out, config = _hold_out(model, images, config)
    opened = open_teachers(teacher, teacher_weights, Views(images), config, next(model.parameters()).device)
    judge, *_ = taught(judges_of(val, config), opened[0])
    runs_of = len(rates) + len(ablation.seeds)
    number, shown = count(1), Progress(silent=not progress or Processes.current().rank > 0)

    def run(
        name: str, arm: TSMRConfig, on: Images, by: Judge, checkpoint: str, of: str
    ) -> tuple[Verdict, int]:
        label = f"run {next(number)} of {len(arms(config)) * runs_of}, {name}, lr {arm.plan.lr:.3g}, {of}"
        with shown.shown(), labelled(label):
            found = train_arm(model, teacher, on, by, arm, folder, checkpoint, progress, teacher_weights)
            verdict, _ = found
            shown.say(f"{verdict.decides} {verdict.deciding.shown()} on {verdict.subject}")
        return found

    result = []
    for name, arm in arms(config).items():
        tried: dict[float, Verdict | None] = {}
        for rate in rates:
            choice = replace(arm, lr=rate, seed=ablation.seeds[0])
            try:
                tried[rate], _ = run(
                    name, choice, part, on_held_out, f"{name}-held-out", "to choose the rate"
                )
            except DivergedError:
                tried[rate] = None
        # All scores decide, not the few near a threshold: short runs differ little, and few people are held out.
        ranks = {rate: found.separation.goodness for rate, found in tried.items() if found is not None}
        if not ranks:
            raise DivergedError(f"{name} diverges at each of the learning rates {', '.join(map(str, tried))}")
        lr = max(ranks, key=lambda rate: ranks[rate])
        runs = [
            run(name, replace(arm, lr=lr, seed=seed), images, judge, name, f"seed {seed}")
            for seed in ablation.seeds
        ]
        values = {rate: None if found is None else found.deciding.value for rate, found in tried.items()}
        verdicts, (images_of_each, *_) = zip(*runs, strict=True)
        result.append(Arm(name, values, lr, images_of_each, verdicts))
    return tuple(result)
