"""Judging on the validation pairs: which of two models is better, and whether what was passed in makes sense."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from recipes.faces import Evaluation, InputPreset, PairSet, evaluate
from recipes.tsmr.progress import LOGGER
from reparam_kit import InputError

Teacher = str | Path | nn.Module

CHECKED = 300  # pairs on which inputs and teachers are tried before training

_CLEARLY = 1.02  # factor on the separation at which another input preset is called better


def rank(evaluation: Evaluation) -> tuple[float, ...]:
    """What makes one evaluation better than another; compare as tuples.

    Accuracy, then the true accept rates from the lowest false accept rate up, then the separation. On a set
    where accuracy and rates are at their ceiling, the separation alone still tells. A rate that the set is too
    small to measure is left out.
    """
    rates = [rate for _, rate in sorted(evaluation.tar_at_far.items()) if rate is not None]
    return (evaluation.accuracy, *rates, separation(evaluation))


def separation(evaluation: Evaluation) -> float:
    """d' of the scores, and the worst where it is not finite, as with one score for every pair."""
    return -math.inf if evaluation.d_prime is None else evaluation.d_prime


def score_teachers(
    teachers: Sequence[Teacher],
    presets: Sequence[InputPreset],
    outputs: Sequence[str | None],
    pairs: PairSet,
) -> tuple[Evaluation, ...]:
    """Each teacher, under its preset and by its output, on ``CHECKED`` of the pairs.

    Raises:
        InputError: one of them does no better than chance.
    """
    few = pairs.sample(CHECKED)
    scores = []
    asked = zip(teachers, presets, outputs, strict=True)
    for number, (teacher, preset, output) in enumerate(asked, start=1):
        name = f"teacher {number}" if isinstance(teacher, nn.Module) else f"the teacher {teacher}"
        scores.append(evaluate(teacher, few, preset, folds=min(10, len(few) // 2), embedding=output))
        refuse_chance(scores[-1], name)
    return tuple(scores)


def refuse_chance(evaluation: Evaluation, teacher: str) -> None:
    """Raise InputError where ``evaluation`` is what guessing could give: within 3 standard errors of it."""
    share = max(evaluation.genuine, evaluation.impostors) / evaluation.pairs
    bound = share + 3 * math.sqrt(share * (1 - share) / evaluation.pairs)
    if evaluation.accuracy <= bound and separation(evaluation) < 1:
        raise InputError(
            f"{teacher} scores at chance on the validation pairs (accuracy {evaluation.accuracy:.1%} on "
            f"{evaluation.pairs}, input {evaluation.input!r}): it is no teacher for these faces, or the preset is wrong"
        )


def better_input(inputs: Mapping[str, Evaluation], asked: str) -> str | None:
    """The preset under which a model separates genuine from impostor pairs by 2 % more than as ``asked``, or None.

    Accuracy is not asked: a wrong normalisation can cost it less than one of a few hundred pairs, while it moves
    every score.
    """
    best = max(inputs, key=lambda name: separation(inputs[name]))
    if asked in inputs and separation(inputs[best]) <= _CLEARLY * separation(inputs[asked]):
        return None
    return best


def warn_of_input(inputs: Mapping[str, Evaluation], asked: str) -> None:
    """Say so, loudly, where there is a ``better_input``."""
    better = better_input(inputs, asked) if inputs else None
    if better is not None:

        def told(name: str) -> str:
            if name not in inputs:
                return "no usable embedding"
            return f"accuracy {inputs[name].accuracy:.1%}, d' {separation(inputs[name]):.2f}"

        LOGGER.warning(
            f"the student does better with input {better!r} ({told(better)}, {inputs[better].pairs} pairs) than with "
            f"{asked!r} as asked for ({told(asked)}): training a model under another input than its own spoils it"
        )
