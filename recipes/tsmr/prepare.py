"""A run made ready to train, from its start or from where it was interrupted."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from recipes.progress import Progress
from recipes.tsmr.beginning import Beginning, Fingerprints
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.ingredients import Ingredients, of_deployed
from recipes.tsmr.progress import LOGGER
from recipes.tsmr.results import Trial
from recipes.tsmr.search.budget import Budget, ending
from recipes.tsmr.search.finding import find
from recipes.tsmr.training.checkpoint import read_checkpoint, whole
from recipes.tsmr.training.checks import warn_of_input, warn_of_overlap, warn_of_placement, warn_of_teachers
from recipes.tsmr.training.history import History
from recipes.tsmr.training.trainer import Trainer

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Prepared(Generic[Model]):
    """A run that is ready to train, from its start or from where it was interrupted.

    Attributes:
        given: what it is made of.
        fingerprints: of these.
        origin: names and values that its checkpoint depends on.
        history: its epochs so far.
        trainer: of its student.
        trials: by which its open choices were made.
        until: when training has to end, so that the budget is kept, by ``time.monotonic()``.
    """

    given: Ingredients[Model]
    fingerprints: Fingerprints
    origin: dict[str, Any]
    history: History
    trainer: Trainer
    trials: tuple[Trial, ...]
    until: float

    def goes_on(self, took: float) -> bool:
        """Return whether there are epochs, and time for more than half of one that takes as long as ``took``; one is
        trained in any case.

        The plan has time for all. A machine may become slower, as others work on it or it gets hot.
        """
        done = len(self.history.epochs)
        left = self.given.processes.told(lambda: self.until - time.monotonic())
        return done < self.given.config.total_epochs and (not done or left > took / 2)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"trainer": self.trainer.state_dict(), "history": self.history.state_dict()}


def prepare(
    given: Ingredients[Model],
    asked: TSMRConfig,
    cache: Path | None,
    folder: Path,
    checkpoint: Path | None,
    progress: Progress,
    begun: float,
) -> Prepared[Model]:
    """Make a run of ``given`` ready to train; it goes on from ``checkpoint``, where that is there.

    Args:
        given: what it is made of.
        asked: the choices, before those that depend on the task were made.
        cache: where the identity of the images, and what was found for open choices, is kept for the next run, if
            anywhere.
        folder: where the tables of embeddings are.
        checkpoint: file of an interrupted run.
        progress: is told how far the tables are.
        begun: when the run began, by ``time.monotonic()``.
    """
    start = Beginning(given, cache, folder, progress)
    budget = Budget.of(asked, given.config.task, begun)
    progress.until = None if budget is None else budget.begun + budget.seconds
    found = find(start, asked, budget, cache, progress)
    given, origin = start.given, start.origin()
    saved = None if checkpoint is None else read_checkpoint(checkpoint, origin)
    history = start.history() if saved is None else _resumed(given, saved, checkpoint)
    warn_of_input(history.inputs, given.config.student_input)
    if given.judges:
        warn_of_teachers(given.teachers, given.judges[0], history.before[0], history.teacher_scores)
    if saved is None and given.processes.rank == 0:
        warn_of_overlap(given.views, given.judges)
    if saved is None and given.processes.rank == 0 and given.config.task == "embeddings":
        warn_of_placement(of_deployed(given.model, given.config), given.views, given.judges)
    for name in given.others:
        LOGGER.warning(
            f"output {name!r} of the student depends on weights that are trained for its embedding alone, and will "
            "change: where it is in use, keep the weights of both as they are with exclude (--exclude)"
        )
    trainer = start.trainer(given.config)
    if saved is not None:
        done = len(history.epochs)
        with whole(checkpoint):
            trainer.load_state_dict(saved["trainer"], done)
        progress.say(f"going on after epoch {done} of {given.config.total_epochs}, from {checkpoint}")
    until = math.inf if progress.until is None else progress.until - ending(given.config, start.judging)
    return Prepared(given, start.fingerprints, origin, history, trainer, found.trials, until)


def _resumed(given: Ingredients[Any], saved: dict[str, Any], checkpoint: Path | None) -> History:
    with whole(checkpoint):
        history = History.from_state(saved["history"])
        history.require_fit(given.model, given.config)
    return history
