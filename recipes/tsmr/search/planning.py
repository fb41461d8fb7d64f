"""What a run has time for, as it goes: how many images, which trials, how many steps."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from recipes.progress import Progress, shown_time
from recipes.tsmr.beginning import Beginning
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.ingredients import of_deployed
from recipes.tsmr.objective.objective import needs
from recipes.tsmr.search.budget import MOST_PASSES, Budget, affordable, ending, lasting
from recipes.tsmr.search.stored import Found
from recipes.tsmr.search.trials import FEWEST, ROUNDS, SHARE, Rounds, plan, short
from recipes.tsmr.targets.streams import Stream
from recipes.tsmr.training.callbacks import Callback

_PACED = 4  # steps by which is told how many images a second are trained on
_ENDING = 0.2  # of the time that is left, at most, in which shares of the way are judged
_MARGIN = 0.9  # of the time that is left, which is planned with: the machine may be slower later


class Planning:
    """The plan of a run.

    Args:
        start: of the run.
        budget: its time; None: how long it trains is chosen.
        progress: is told what there is no time for, and how much there is for what.
    """

    def __init__(self, start: Beginning[Any], budget: Budget | None, progress: Progress) -> None:
        self._start, self._budget, self._progress = start, budget, progress
        self._config: TSMRConfig = start.given.config
        self._processes = start.given.processes

    def shares(self) -> tuple[float, ...]:
        """Return the shares of the way that there is time to judge: the more there are, the less is trained."""
        shares, budget = self._config.shares, self._budget
        if budget is not None:
            self._start.history()  # judges student and teachers first, which tells what judging takes
            judging = max(self._start.judging, 1e-9)
            many = self._processes.told(lambda: int(_ENDING * max(budget.left, 0.0) / judging))
            shares = tuple(sorted(sorted(shares, key=lambda share: abs(share - 0.5))[:many]))
            self._config = replace(self._config, shares=shares)
        return shares

    def images(self) -> int:
        """Return how many images there is time to ask the nets about."""
        given, budget, there = self._start.given, self._budget, len(self._start.given.views)
        most = min(self._config.images or there, there)
        if budget is None or isinstance(given.views.images, Stream):
            return most
        nets = [teacher.embed for teacher in given.teachers]
        if "old" in needs(self._config):
            nets.append(of_deployed(given.model, self._config))
        images = min(
            affordable(given.views, nets, self._config, self._unjudged(budget), self._processes), most
        )
        if images < most:
            self._progress.say(
                f"in {shown_time(budget.seconds)} (--budget) the nets cannot be asked about {most:,} images: "
                f"{images:,} of them, drawn at random, are trained on"
            )
        return images

    def trials(self, judging: float) -> tuple[Rounds, int]:
        """Return which trials there is time for, and the steps of one of the first round; ``judging`` one takes so many
        seconds.
        """
        config, images = self._config, len(self._start.given.views)
        if self._budget is None:
            asked = SHARE * config.total_epochs * (config.steps or images // self._size)
            fewest = FEWEST * sum(many * times for many, times in ROUNDS[0])
            return plan(max(asked, fewest), 0.0, 1.0)
        rate = self._pace
        most = SHARE * MOST_PASSES * images / self._size
        seconds = SHARE * self._budget.left
        return self._processes.told(lambda: plan(seconds, judging, rate / self._size, most))

    def length(self, found: Found) -> Found:
        """Return ``found`` with epochs and steps for which there is time; without a budget, as it is.

        The trials that were run tell how fast it goes, else a few steps.
        """
        budget = self._budget
        if budget is None:
            return found
        config = found.settle(self._config)
        rate = next((trial.rate for trial in found.trials), 0.0) or self._pace
        images, judging = len(self._start.given.views), self._start.judging
        config = lasting(config, images, rate, self._unjudged(budget), judging, self._processes)
        epochs, steps = config.plan.stages[0].epochs, config.steps or 0
        time = f"{shown_time(budget.seconds)} (--budget)"
        self._progress.say(
            (
                f"{shown_time(budget.left)} of {time} are left"
                if budget.left > 0
                else f"{time} are over, and the least is trained"
            )
            + f": epochs {config.total_epochs}, steps in each {steps}, {config.total_epochs * steps * self._size:,} "
            f"images at {rate:.0f} images/s"
        )
        return replace(found, epochs=epochs, steps=steps)

    def _unjudged(self, budget: Budget) -> float:
        """Return the seconds that are left to plan with before the shares of the way are judged, and the last model."""
        return _MARGIN * budget.left - ending(self._config, self._start.judging)

    @property
    def _size(self) -> int:
        """Images a step."""
        return self._config.images_of_step(self._processes.count)

    @cached_property
    def _pace(self) -> float:
        """How many images a second are trained on by the usual choices."""
        self._progress.say(f"timing {_PACED} steps, by which it is told what there is time for")
        _, rate = self._start.trainer(short(self._config, _PACED)).run_epoch(1, Callback())
        return rate
