"""Short runs with other choices, of which the judge takes the best: successive halving.

Jamieson and Talwalkar, Non-stochastic best arm identification, AISTATS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter

from recipes.progress import Progress, labelled
from recipes.tsmr.candidates import CANDIDATES, Hyperparameters
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.results import Trial

Rounds = tuple[tuple[int, int], ...]

ROUNDS: tuple[Rounds, ...] = (((len(CANDIDATES), 1), (2, 2)), ((len(CANDIDATES), 1),))
"""How many candidates each round tries, and for how many times the steps of the first: the whole search, and a shorter
one where there is no time for it.
"""

SHARE = 0.25  # of the time, that is spent on trials
FEWEST = 8  # steps of one that says something

_ALIKE = 0.25  # standard errors, by which two trials are hardly told apart

Rank = tuple[float, ...]
Run = Callable[[Hyperparameters, int], tuple[Rank, Trial]]


def short(config: TSMRConfig, steps: int) -> TSMRConfig:
    """Return so many steps of the first stage of ``config``."""
    first, *_ = config.plan.stages
    return replace(config, stages=(replace(first, epochs=1),), epochs=None, steps=steps)


def plan(seconds: float, judging: float, pace: float, most: float = math.inf) -> tuple[Rounds, int]:
    """Return the rounds that there is time for, and the steps of a trial of the first; none, and 0, where there is for
    none.

    Args:
        seconds: for all trials together.
        judging: seconds that judging one takes.
        pace: steps a second.
        most: steps, of all trials together.
    """
    for rounds in ROUNDS:
        left = seconds - judging * sum(many for many, _ in rounds)
        steps = int(min(left * pace, most)) // sum(many * times for many, times in rounds)
        if steps >= FEWEST:
            return rounds, steps
    return (), 0


def search(rounds: Rounds, steps: int, run: Run, progress: Progress, processes: Processes) -> list[Trial]:
    """Try the candidates, the best of them longer, and return all trials, the best of the last round first.

    Args:
        rounds: of ``ROUNDS``.
        steps: of a trial of the first round.
        run: trains so many steps by a candidate, and judges what comes of it.
        progress: is told how each went.
        processes: those that train together.
    """
    trials: list[Trial] = []
    left: Sequence[Hyperparameters] = CANDIDATES
    total = sum(many for many, _ in rounds)
    for many, times in rounds:
        ranked: list[tuple[Rank, Trial]] = []
        for choices in left[:many]:
            with labelled(f"trial {len(trials) + len(ranked) + 1} of {total}"):
                ranked.append(run(choices, times * steps))
                progress.say(ranked[-1][1].told)
        ranked = processes.told(partial(_in_order, ranked))
        trials = [trial for _, trial in ranked] + trials
        left = [trial.choices for _, trial in ranked]
    return trials


def _in_order(ranked: list[tuple[Rank, Trial]]) -> list[tuple[Rank, Trial]]:
    """Return the best first; of those that are hardly told from it, the boldest: what a high rate gains grows with the
    length of a run, so that a short one shows the least of it.
    """
    ranked = sorted(ranked, key=itemgetter(0), reverse=True)
    best = ranked[0][1].surely
    if best is None:
        return ranked
    near = [one for one in ranked if one[1].surely is not None and one[1].surely >= best - _ALIKE]
    boldest = max(near, key=lambda one: CANDIDATES.index(one[1].choices))
    return [boldest, *(one for one in ranked if one is not boldest)]
