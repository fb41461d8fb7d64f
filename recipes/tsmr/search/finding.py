"""The choices that a run leaves open: made as an earlier run made them, or by short runs and by the time there is."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from recipes.progress import Progress
from recipes.tsmr.averaging import between, compared_with
from recipes.tsmr.beginning import Beginning
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.expansion import deployable
from recipes.tsmr.ingredients import of_deployed
from recipes.tsmr.objective.objective import needs
from recipes.tsmr.results import Trial
from recipes.tsmr.search.budget import MOST_PASSES, Budget, affordable, drawn, lasting
from recipes.tsmr.search.ranking import surely_better
from recipes.tsmr.search.stored import Found, read_found, write_found
from recipes.tsmr.search.trials import FEWEST, PART, ROUNDS, SHARE, Rank, Rounds, plan, search, short
from recipes.tsmr.targets.streams import Stream
from recipes.tsmr.training.callbacks import Callback, ProgressBar
from recipes.tsmr.training.trainer import DivergedError
from reparam_kit import InputError

_PACED = 4  # steps by which is told how many images a second are trained on
_MARGIN = 0.9  # of the time that is left, which is planned with: the machine may be slower later


def find(
    start: Beginning[Any], asked: TSMRConfig, budget: Budget | None, cache: Path | None, progress: Progress
) -> Found:
    """Make the choices that ``start`` leaves open, and put them, and the images that are trained on, in their place.

    Args:
        start: of the run.
        asked: the choices, before those that depend on the task were made.
        budget: its time; None: how long it trains is chosen.
        cache: folder in which the next run finds what was found.
        progress: is told what is tried and chosen.
    """
    given = start.given
    config, told, there = given.config, given.processes.told, len(given.views)
    if config.images is not None and isinstance(given.views.images, Stream):
        raise InputError("images: how many of a stream are trained on, steps says")
    wanted = asked.open and not asked.timed if asked.auto is None else asked.auto
    searched = bool(wanted and given.judges and config.task == "embeddings")
    if budget is None and not searched:
        start.take(drawn(given.views, min(config.images or there, there), config))
        return Found()
    origin = {**start.origin(), "budget": budget and budget.seconds}
    found = told(lambda: read_found(cache, origin))
    finding = _Finding(start, budget, progress)
    if found.images is None:
        found = replace(found, images=finding.affordable())
        start.take(drawn(given.views, found.images or 0, config))
        found = finding.complete(found, searched)
        told(lambda: write_found(cache, origin, found))
    else:
        start.take(drawn(given.views, found.images, config))
    settled = found.settle(config)
    start.settle(settled if found.images == there else replace(settled, images=found.images))
    return found


class _Finding:
    def __init__(self, start: Beginning[Any], budget: Budget | None, progress: Progress) -> None:
        self._start, self._budget, self._progress = start, budget, progress
        self._config: TSMRConfig = start.given.config
        self._processes = start.given.processes

    def affordable(self) -> int:
        """Return how many images there is time to ask the nets about."""
        given, budget, there = self._start.given, self._budget, len(self._start.given.views)
        most = min(self._config.images or there, there)
        if budget is None or isinstance(given.views.images, Stream):
            return most
        nets = [teacher.embed for teacher in given.teachers]
        if "old" in needs(self._config):
            nets.append(of_deployed(given.model, self._config))
        self._start.history()  # judges student and teachers first, which tells what judging takes
        images = min(
            affordable(given.views, nets, self._config, self._unjudged(budget), self._processes), most
        )
        if images < most:
            self._progress.say(
                f"in {budget.seconds / 60:.3g} min (--budget) the nets cannot be asked about {most:,} images: "
                f"{images:,} of them, drawn at random, are trained on"
            )
        return images

    def complete(self, found: Found, searched: bool) -> Found:
        """Return ``found`` with choices, where they are ``searched`` for, and with epochs and steps."""
        self._start.history()
        if found.choices is not None:
            self._progress.say(f"chosen, as an earlier run found: {found.trials[0].what}")
        elif searched:
            found = self._search(found)
        return found if self._budget is None else self._lasting(found, self._budget)

    def _lasting(self, found: Found, budget: Budget) -> Found:
        """Return it with epochs and steps for which there is time; the trials that were run tell how fast it goes."""
        config = found.settle(self._config)
        rate = next((trial.rate for trial in found.trials), 0.0) or self._pace
        images, judging = len(self._start.given.views), self._start.judging
        config = lasting(config, images, rate, self._unjudged(budget), judging, self._processes)
        epochs, steps = config.plan.stages[0].epochs, config.steps or 0
        time = f"{budget.seconds / 60:.3g} min (--budget)"
        left = budget.left / 60
        self._progress.say(
            (f"{left:.2g} of {time} are left" if left > 0 else f"{time} are over, and the least is trained")
            + f": epochs {config.total_epochs}, steps in each {steps}, {config.total_epochs * steps * self._size:,} "
            f"images at {rate:.0f} images/s"
        )
        return replace(found, epochs=epochs, steps=steps)

    def _unjudged(self, budget: Budget) -> float:
        """Return the seconds that are left to plan with before the shares of the way are judged, and the last model."""
        return _MARGIN * budget.left - (len(self._config.shares) + 1) * self._start.judging

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

    def _search(self, found: Found) -> Found:
        rounds, steps = self._plan()
        if not rounds:
            self._progress.say(
                "there is no time to try choices by short runs, and the usual ones are taken: a longer --budget, or "
                "fewer people to judge by, gives it"
            )
            return found
        trials = search(self._config, rounds, steps, self._try, self._progress, self._processes)
        self._progress.say(f"chosen: {trials[0].what}")
        return replace(found, choices=trials[0].choices, trials=tuple(trials))

    def _plan(self) -> tuple[Rounds, int]:
        """Return which trials there is time for, and their steps."""
        config, images = self._config, len(self._start.given.views)
        if self._budget is None:
            asked = SHARE * config.total_epochs * (config.steps or images // self._size)
            fewest = FEWEST * sum(many * times for many, times in ROUNDS[0])
            return plan(max(asked, fewest), 0.0, 1.0)
        rate = self._pace
        most = SHARE * MOST_PASSES * images / self._size
        seconds, judging = SHARE * self._budget.left, self._start.judging
        return self._processes.told(lambda: plan(seconds, judging, rate / self._size, most))

    def _try(self, config: TSMRConfig) -> tuple[Rank, Trial]:
        """Return one trial, and what orders it among others: how surely it is better, else the figures."""
        given, before = self._start.given, self._start.history().before
        trainer, bar = self._start.trainer(config), ProgressBar(self._progress)
        bar.start(config, 0)
        try:
            _, rate = trainer.run_epoch(1, bar)
        except DivergedError:
            return (-math.inf,), Trial(None, PART)
        finally:
            bar.end(None)
        first = replace(given, judges=given.judges[:1])
        weights = deployable(trainer.trained).state_dict()
        (verdict,) = first.judge(between(given.model, weights, PART))
        (comparison,) = compared_with(first, before[:1], [verdict])
        surely = surely_better(comparison)
        old, new = before[0].deciding, verdict.deciding
        shown = f"{new.name} {new.shown()} (deployed {old.shown()})"
        return (surely or 0.0, *verdict.rank()), Trial(new.value, PART, surely, rate, shown=shown)
