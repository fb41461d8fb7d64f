"""One trial: a few steps by other choices, and how surely the judge finds better what comes of them."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

from recipes.progress import Progress, labelled
from recipes.tsmr.averaging import between
from recipes.tsmr.beginning import Beginning
from recipes.tsmr.candidates import Hyperparameters
from recipes.tsmr.expansion import deployable
from recipes.tsmr.results import Trial
from recipes.tsmr.search.ranking import surely_better
from recipes.tsmr.search.trials import Rank, short
from recipes.tsmr.training.callbacks import ProgressBar
from recipes.tsmr.training.trainer import DivergedError

PART = 0.3
"""Of the way from the deployed weights, at which a trial is judged.

What few steps gain grows with the way, and what a high rate leaves unsettled in them with its square: at the end of the
way a trial says how rough it was, near its start where it leads.
"""

JUDGED = 2000
"""Examples that a trial is judged on, at most: the run itself is judged on all."""


class Trying:
    """Trials of a run, judged by its first judge on some of the examples.

    Args:
        start: of the run.
        progress: is told how far a trial is.

    Attributes:
        judging: seconds that judging one takes.
    """

    def __init__(self, start: Beginning[Any], progress: Progress) -> None:
        self._start, self._progress = start, progress
        first = start.given.judges[0]
        few = first.part(JUDGED)
        self._given = replace(start.given, judges=(few,))
        (self._before, *_), self.judging = start.history().before, start.judging
        if few is not first:
            begun = time.perf_counter()
            with labelled("judging the deployed model for trials"):
                (self._before,) = self._given.judge(start.given.model)
            self.judging = time.perf_counter() - begun
            progress.say(f"trials are judged on {self._before.subject}")

    def __call__(self, choices: Hyperparameters, steps: int) -> tuple[Rank, Trial]:
        """Return one trial, and what orders it among others: how surely it is better, else its figures."""
        config = short(choices.settle(self._given.config), steps)
        trial = Trial(choices, steps, PART)
        trainer, bar = self._start.trainer(config), ProgressBar(self._progress)
        bar.start(config, 0)
        try:
            _, rate = trainer.run_epoch(1, bar)
        except DivergedError:
            return (-math.inf,), trial
        finally:
            bar.end(None)
        (judge,), weights = self._given.judges, deployable(trainer.trained).state_dict()
        (verdict,) = self._given.judge(between(self._given.model, weights, PART))
        surely = surely_better(judge.compare(self._before, verdict))
        old, new = self._before.deciding, verdict.deciding
        shown = f"{new.name} {new.shown()} (deployed {old.shown()})"
        return (surely or 0.0, *verdict.rank()), replace(
            trial, value=new.value, surely=surely, rate=rate, shown=shown
        )
