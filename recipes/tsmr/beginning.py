"""The beginning of a run: who is who, what was known before, and a student ready to be trained."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from recipes.faces import input_preset
from recipes.faces.judging.wanted import try_inputs
from recipes.progress import Progress, labelled
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.expansion import expanded
from recipes.tsmr.ingredients import Ingredients, as_file, of_deployed, of_student
from recipes.tsmr.objective.loss import Batch, Start
from recipes.tsmr.objective.objective import THROUGH_THE_MAP, Objective, needs, own_losses
from recipes.tsmr.objective.turn import Same, Turn
from recipes.tsmr.stages import LOSSES
from recipes.tsmr.targets.examples import Examples, identity_labels
from recipes.tsmr.targets.gathering import gather_examples
from recipes.tsmr.targets.identity import data_identity, model_identity
from recipes.tsmr.targets.partners import Partners
from recipes.tsmr.targets.passes import Net, refuse_constant
from recipes.tsmr.targets.task import Task
from recipes.tsmr.targets.views import Views
from recipes.tsmr.training.checks import CHECKED, score_teachers, warn_of_teacher_inputs
from recipes.tsmr.training.history import History
from recipes.tsmr.training.trainer import Trainer
from reparam_kit import InputError, __version__, fingerprint

Model = TypeVar("Model", bound=nn.Module)

_FITTED = 2048  # images to which the start of the map is fitted
_EMBEDDED = 64  # of those at once


@dataclass(frozen=True)
class Fingerprints:
    """sha256 of student, teachers and images, as in ``TSMRReport``."""

    student: str
    teachers: tuple[str, ...]
    data: str


class Beginning(Generic[Model]):
    """The parts of a run's beginning: each is made when it is first asked for, and once.

    Args:
        given: what the run is made of.
        cache: where the identity of the images is kept for the next run, if anywhere.
        folder: where the tables of embeddings are.
        progress: is told how far the tables are.

    Attributes:
        given: the same, with other images or choices once they were changed.
        fingerprints: of student, teachers and images.
        judging: seconds that the judges take for one model, once it was judged as it is.
    """

    def __init__(
        self,
        given: Ingredients[Model],
        cache: Path | None,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.given = given
        self.judging = 0.0
        self._cache, self._folder, self._progress = cache, folder, progress
        self._judged: History | None = None
        self._examples: Examples | None = None
        self._sample: Batch | None = None
        self._nets = model_identity(given.model), tuple(teacher.identity for teacher in given.teachers)
        self._identify()

    def _identify(self) -> None:
        given, config = self.given, self.given.config
        images = given.views.images
        data = given.processes.told(
            lambda: data_identity(images, self._cache, workers=config.workers, progress=self._progress)
        )
        self.fingerprints = Fingerprints(*self._nets, data)
        self._labels = identity_labels(images) if "labels" in needs(config) else None

    def origin(self) -> dict[str, Any]:
        """Return all that the run's weights depend on, by name."""
        return _origin(self.given, self.fingerprints, self._labels)

    def take(self, views: Views) -> None:
        """Train on other images."""
        if views is not self.given.views:
            self.given = replace(self.given, views=views)
            self._examples = self._sample = None
            self._identify()

    def settle(self, config: TSMRConfig) -> None:
        """Train by other choices of rate, norms, losses and length."""
        self.given = replace(self.given, config=config)

    def history(self) -> History:
        """Return the history of the run before its first epoch."""
        if self._judged is None:
            self._judged, self.judging = _judged(self.given)
            self._tell(self._judged)
        return self._judged

    def _tell(self, history: History) -> None:
        """Say what each epoch will be held against."""
        for verdict in history.before:
            self._progress.say(f"deployed: {verdict.decides} {verdict.deciding.shown()} on {verdict.subject}")
        # Without judges there are no scores.
        for teacher, score in zip(self.given.teachers, history.teacher_scores, strict=False):
            self._progress.say(f"{teacher.name}: {score.decides} {score.deciding.shown()}")

    def examples(self) -> Examples:
        """Return the images with all that is known of them."""
        if self._examples is None:
            self._examples = gathered(
                self.given, self.fingerprints, self._labels, self._folder, self._progress
            )
        return self._examples

    def trainer(self, config: TSMRConfig) -> Trainer:
        """Return the training of the expanded student by ``config``, from its start."""
        examples = self.examples()
        if config.views == "original":  # what is stored is of the images as they are, however they are shown
            examples = replace(examples, showing=replace(examples.showing, augment=config.augment))
        torch.manual_seed(config.seed)
        student = expanded(self.given.trained, self.given.views, config)
        if self._sample is None:  # whatever else is chosen, the student starts as it was deployed
            self._sample = answers(self.given.model, examples, config)
        objective = start_objective(self._sample, examples, config, self.given.device)
        return Trainer(student, objective, examples, config, self.given.processes)


def _origin(
    given: Ingredients[Any], fingerprints: Fingerprints, labels: npt.NDArray[np.int64] | None
) -> dict[str, Any]:
    """Return all that a run's weights depend on, by name."""
    origin = {
        **given.config.to_json(),
        **vars(fingerprints),
        "labels": fingerprint(labels),
        "own losses": own_losses(given.config),
        "trained": fingerprint({name for name, p in given.trained.named_parameters() if p.requires_grad}),
        "val": [judge.identity() for judge in given.judges],
        "processes": given.processes.count,
        "reparam-kit": __version__,
    }
    del origin["workers"]  # changes nothing in the result
    return origin


def _judged(given: Ingredients[Any]) -> tuple[History, float]:
    """Return the history of a run before its first epoch: what student and teachers score on the validation set; and
    how many seconds the judges took for the student.
    """
    if not given.judges:
        return History(None, (), (), given.model.state_dict()), 0.0
    config = given.config
    with labelled("judging the teacher"):
        scores = score_teachers(given.teachers, given.judges[0])
    with labelled("trying input presets"), as_file(given.model) as runs:
        warn_of_teacher_inputs(given.teachers, given.judges[0])
        asked = input_preset(config.student_input)
        inputs = try_inputs(runs, given.judges[0], asked, config.student_output, CHECKED)
    start = time.perf_counter()
    with labelled("judging the deployed model"):
        before = given.judge(given.model)
    return History(inputs, scores, before, given.model.state_dict()), time.perf_counter() - start


def gathered(
    given: Ingredients[Any],
    fingerprints: Fingerprints,
    labels: npt.NDArray[np.int64] | None,
    folder: Path,
    progress: Progress,
) -> Examples:
    """Return the images with all that is known of them, see ``gather_examples``.

    Raises:
        InputError: as there; or a loss needs identities and there are none.
    """
    config = given.config
    if labels is not None and labels.max() < 1:
        asking = ", ".join(name for name in config.losses if "labels" in LOSSES[name].needs)
        raise InputError(
            f"losses that tell people or classes apart ({asking}) need labels, and the data names fewer than two"
        )
    embedders = [teacher.embed for teacher in given.teachers]
    kind = Task(config.task)
    teachers = [Net(embed, of, kind) for embed, of in zip(embedders, fingerprints.teachers, strict=True)]
    old = None
    if "old" in needs(config):
        old = Net(of_deployed(given.model, config), fingerprints.student, kind, "deployed model")
    examples = gather_examples(
        given.views, teachers, old, labels, fingerprints.data, folder, config, given.device, progress,
        given.processes,
    )  # fmt: skip
    if not any(LOSSES[name].paired for name in config.losses):
        return examples
    partners = Partners.find(examples.targets, examples.old, len(given.views), config.seed)
    progress.say(
        f"pairs that are hard to tell, and come into a batch together: {len(partners.alike):,} of one person as the "
        f"teacher says, {len(partners.confused):,} of two that the student takes for alike"
    )
    return replace(examples, partners=partners)


def answers(model: nn.Module, examples: Examples, config: TSMRConfig) -> Batch:
    """Return what the student says before training of a sample of the training images, and what its teachers do.

    Raises:
        InputError: the student's outputs of them are not finite, or all the same.
    """
    embed, task = of_student(model, config), Task(config.task)
    ours, theirs = [], []
    for shown in examples.showing.first(_FITTED, _EMBEDDED, config.workers):
        ours.append(task.student(embed(shown.images)))
        theirs.append(examples.targets.rows(shown).cpu())
    student = torch.cat(ours)
    if not student.isfinite().all():
        raise InputError(
            "the student's outputs of the training images are not finite: check the student and "
            f"student_input={config.student_input!r}"
        )
    refuse_constant(student.flatten(1).float().cpu().numpy(), "student", task)
    return Batch(student, teacher=torch.cat(theirs))


def start_objective(sample: Batch, examples: Examples, config: TSMRConfig, device: torch.device) -> Objective:
    """Map and losses, started from the ``answers`` to a sample of the training images."""
    student, teacher = sample.student, sample.teacher
    turns = Task(config.task).unit and needs(config) & THROUGH_THE_MAP
    turn = Turn(student.shape[1], teacher.shape[1]) if turns else Same()
    turn.fit(student, teacher)
    objective = Objective(turn, config)
    objective.start(Start(student.shape[1], teacher.shape[1], examples, config, device, sample))
    return objective.to(device)
