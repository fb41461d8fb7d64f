"""What training starts from: the expanded student, the tables it learns from, and the map between spaces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from recipes.faces import (
    compare_inputs,
)
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.expansion import device_of, expanded
from recipes.tsmr.ingredients import Ingredients, of_student
from recipes.tsmr.objective.loss import Batch, Start
from recipes.tsmr.objective.objective import Objective, needs, own_losses
from recipes.tsmr.objective.turn import Same, Turn
from recipes.tsmr.progress import LOGGER, Progress
from recipes.tsmr.stages import LOSSES
from recipes.tsmr.targets.examples import Examples, identity_labels
from recipes.tsmr.targets.gathering import gather_examples
from recipes.tsmr.targets.identity import data_identity, model_identity
from recipes.tsmr.targets.partners import Partners
from recipes.tsmr.targets.passes import Net, refuse_constant
from recipes.tsmr.targets.task import Task
from recipes.tsmr.training.checkpoint import read_checkpoint, whole
from recipes.tsmr.training.checks import (
    CHECKED,
    score_teachers,
    warn_of_input,
    warn_of_teachers,
)
from recipes.tsmr.training.history import History
from recipes.tsmr.training.trainer import Trainer
from reparam_kit import InputError, __version__, fingerprint

Model = TypeVar("Model", bound=nn.Module)
Value = TypeVar("Value")

_FITTED = 2048  # images to which the start of the map is fitted
_EMBEDDED = 64  # of those at once


@dataclass(frozen=True)
class Fingerprints:
    """sha256 of student, teachers and images, as in ``TSMRReport``."""

    student: str
    teachers: tuple[str, ...]
    data: str


@dataclass(frozen=True)
class Prepared(Generic[Model]):
    """A run that is ready to train, from its start or from where it was interrupted.

    Attributes:
        given: what it is made of.
        fingerprints: of these.
        origin: names and values that its checkpoint depends on.
        history: its epochs so far.
        trainer: of its student.
    """

    given: Ingredients[Model]
    fingerprints: Fingerprints
    origin: dict[str, Any]
    history: History
    trainer: Trainer

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"trainer": self.trainer.state_dict(), "history": self.history.state_dict()}


def prepare(
    given: Ingredients[Model], cache: Path | None, folder: Path, checkpoint: Path | None, progress: Progress
) -> Prepared[Model]:
    """Make a run of ``given`` ready to train; it goes on from ``checkpoint``, where that is there.

    Args:
        given: what it is made of.
        cache: where the identity of the images is kept for the next run, if anywhere.
        folder: where the tables of embeddings are.
        checkpoint: file of an interrupted run.
        progress: is told how far the tables are.
    """
    config, views, processes = given.config, given.views, given.processes
    fingerprints = Fingerprints(
        model_identity(given.model),
        tuple(teacher.identity for teacher in given.teachers),
        processes.told(lambda: data_identity(views.images, cache, workers=config.workers, progress=progress)),
    )
    labels = identity_labels(views.images) if "labels" in needs(config) else None
    origin = _origin(given, fingerprints, labels)
    saved = None if checkpoint is None else read_checkpoint(checkpoint, origin)
    student = expanded(given.trained, views, config)
    history = _judged(given) if saved is None else _resumed(given, saved, checkpoint)
    warn_of_input(history.inputs, config.student_input)
    if given.judges:
        warn_of_teachers(given.teachers, given.judges[0], history.before[0], history.teacher_scores)
    for name in given.others:
        LOGGER.warning(
            f"output {name!r} of the student depends on weights that are trained for its embedding alone, and will "
            "change: where it is in use, keep the weights of both as they are with exclude (--exclude)"
        )
    examples = gathered(given, fingerprints, labels, folder, progress)
    trainer = Trainer(student, start_objective(given.model, examples, config), examples, config, processes)
    if saved is not None:
        done = len(history.epochs)
        with whole(checkpoint):
            trainer.load_state_dict(saved["trainer"], done)
        progress.say(f"going on after epoch {done} of {config.total_epochs}, from {checkpoint}")
    return Prepared(given, fingerprints, origin, history, trainer)


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


def _judged(given: Ingredients[Any]) -> History:
    """Return the history of a run before its first epoch: what student and teachers score on the validation set."""
    if not given.judges:
        return History({}, (), (), given.model.state_dict())
    config = given.config
    scores = score_teachers(given.teachers, given.judges[0])
    inputs = compare_inputs(
        given.model,
        given.judges[0],
        CHECKED,
        inputs=[config.student_input],
        embedding=config.student_output,
    )
    return History(inputs, scores, given.judge(given.model), given.model.state_dict())


def _resumed(given: Ingredients[Any], saved: dict[str, Any], checkpoint: Path | None) -> History:
    with whole(checkpoint):
        history = History.from_state(saved["history"])
        history.require_fit(given.model, given.config)
    return history


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
        old = Net(of_student(given.model, config), fingerprints.student, kind, "deployed model")
    examples = gather_examples(
        given.views, teachers, old, labels, fingerprints.data, folder, config, given.device, progress,
        given.processes,
    )  # fmt: skip
    if not any(LOSSES[name].paired for name in config.losses):
        return examples
    partners = Partners.find(examples.targets, examples.old, len(given.views), config.seed)
    progress.say(
        f"pairs to show together: {len(partners.alike):,} of one person as the teacher says, "
        f"{len(partners.confused):,} of two that the student takes for alike"
    )
    return replace(examples, partners=partners)


def start_objective(model: nn.Module, examples: Examples, config: TSMRConfig) -> Objective:
    """Map and losses, started from a sample of the training images.

    Raises:
        InputError: the student's outputs of them are not finite, or all the same.
    """
    embed, task = of_student(model, config), Task(config.task)
    ours, theirs = [], []
    for shown in examples.showing.first(_FITTED, _EMBEDDED, config.workers):
        ours.append(task.student(embed(shown.images)))
        theirs.append(examples.targets.rows(shown).cpu())
    student, teacher = torch.cat(ours), torch.cat(theirs)
    if not student.isfinite().all():
        raise InputError(
            "the student's outputs of the training images are not finite: check the student and "
            f"student_input={config.student_input!r}"
        )
    refuse_constant(student.flatten(1).float().cpu().numpy(), "student", task)
    turn = Turn(student.shape[1], teacher.shape[1]) if task.unit else Same()
    turn.fit(student, teacher)
    objective = Objective(turn, config)
    device = device_of(model)
    sample = Batch(student, teacher=teacher)
    objective.start(Start(student.shape[1], teacher.shape[1], examples, config, device, sample))
    return objective.to(device)
