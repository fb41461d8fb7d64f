"""The choices that a run leaves open: made as an earlier run made them, or by short runs and by the time there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from recipes.progress import Progress
from recipes.tsmr.beginning import Beginning
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.search.budget import Budget, drawn
from recipes.tsmr.search.planning import Planning
from recipes.tsmr.search.stored import Found, read_found, write_found
from recipes.tsmr.search.trials import search
from recipes.tsmr.search.trying import Trying
from recipes.tsmr.targets.streams import Stream
from reparam_kit import InputError


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
    if found.images is None:
        planning = Planning(start, budget, progress)
        found = replace(found, shares=planning.shares())
        found = replace(found, images=planning.images())
        start.take(drawn(given.views, found.images or 0, config))
        start.history()
        if found.choices is not None:
            progress.say(f"chosen, as an earlier run found: {found.choices.told}")
        elif searched:
            found = _searched(found, start, planning, progress)
        found = planning.length(found)
        told(lambda: write_found(cache, origin, found))
    else:
        start.take(drawn(given.views, found.images, config))
    settled = found.settle(config)
    start.settle(settled if found.images == there else replace(settled, images=found.images))
    return found


def _searched(found: Found, start: Beginning[Any], planning: Planning, progress: Progress) -> Found:
    """Return ``found`` with the choices of the best trial, where there is time for some."""
    trying = Trying(start, progress)
    rounds, steps = planning.trials(trying.judging)
    if not rounds:
        progress.say(
            "there is no time to try choices by short runs, and the usual ones are taken: a longer --budget gives it"
        )
        return found
    trials = search(rounds, steps, trying, progress, start.given.processes)
    progress.say(f"chosen: {trials[0].choices.told}")
    return replace(found, choices=trials[0].choices, trials=tuple(trials))
