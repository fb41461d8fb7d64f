"""Short runs with other choices, of which the judge takes the best: successive halving.

Jamieson and Talwalkar, Non-stochastic best arm identification, AISTATS 2016. What is best depends on the net that is
deployed. One that has converged gains by small steps away from what it is; a small one that learned from labels alone
gains by large ones, which BatchNorms allow, and has nothing to stay close to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from recipes.progress import Progress, labelled
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.results import Trial
from recipes.tsmr.stages import DISTIL, Stage

KEEP: dict[str, float] = dict(DISTIL.losses)
LEARN: dict[str, float] = {name: w for name, w in KEEP.items() if name != "gallery"} | {"cosine": 1.0}

CANDIDATES: tuple[dict[str, Any], ...] = (
    {"lr": 2e-4, "restore_bn": False, "losses": KEEP},
    {"lr": 6e-4, "restore_bn": False, "losses": KEEP},
    {"lr": 1e-3, "restore_bn": True, "losses": LEARN},
    {"lr": 3e-3, "restore_bn": True, "losses": LEARN},
)
"""What is tried: the usual choices, then those that go further from the deployed net."""

Rounds = tuple[tuple[int, int], ...]

ROUNDS: tuple[Rounds, ...] = (((len(CANDIDATES), 1), (2, 2)), ((len(CANDIDATES), 1),))
"""How many candidates each round tries, and for how many times the steps of the first: the whole search, and a shorter
one where there is no time for it.
"""

SHARE = 0.25  # of the time, that is spent on trials
FEWEST = 8  # steps of one that says something

PART = 0.3
"""Of the way from the deployed weights, at which a trial is judged.

What few steps gain grows with the way, and what a high rate leaves unsettled in them with its square: at the end of the
way a trial says how rough it was, near its start where it leads.
"""

Rank = tuple[float, ...]
Run = Callable[[TSMRConfig], tuple[Rank, Trial]]


def chosen(config: TSMRConfig, choices: dict[str, Any]) -> TSMRConfig:
    """Return ``config`` with the choices of a candidate; a loss that its own stages add to the usual ones stays."""
    stages = tuple(
        Stage(stage.epochs, stage.rate, _other(stage.losses, choices["losses"]))
        for stage in config.plan.stages
    )
    return replace(config, lr=choices["lr"], restore_bn=choices["restore_bn"], stages=stages, epochs=None)


def short(config: TSMRConfig, steps: int) -> TSMRConfig:
    """Return so many steps of the first stage of ``config``."""
    first, *_ = config.plan.stages
    return replace(config, stages=(replace(first, epochs=1),), epochs=None, steps=steps)


def _other(losses: dict[str, float], usual: dict[str, float]) -> dict[str, float]:
    return usual | {name: weight for name, weight in losses.items() if name not in KEEP}


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


def search(
    config: TSMRConfig, rounds: Rounds, steps: int, run: Run, progress: Progress, processes: Processes
) -> list[Trial]:
    """Try the candidates, the best of them longer, and return all trials, the best of the last round first.

    Args:
        config: what a trial takes besides its choices.
        rounds: of ``ROUNDS``.
        steps: of a trial of the first round.
        run: trains and judges one trial.
        progress: is told how each went.
        processes: those that train together.
    """
    trials: list[Trial] = []
    left: Sequence[dict[str, Any]] = CANDIDATES
    total = sum(many for many, _ in rounds)
    for many, times in rounds:
        ranked: list[tuple[Rank, Trial]] = []
        for choices in left[:many]:
            with labelled(f"trial {len(trials) + len(ranked) + 1} of {total}"):
                rank, trial = run(short(chosen(config, choices), times * steps))
                ranked.append((rank, replace(trial, choices=choices, steps=times * steps)))
                progress.say(ranked[-1][1].told)
        ranked.sort(key=lambda pair: pair[0], reverse=True)
        trials = [trial for _, trial in ranked] + trials
        left = [trial.choices for _, trial in ranked]
    return processes.told(lambda: trials)
