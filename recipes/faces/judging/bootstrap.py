"""How far the figures of a verification set would move on another set of the same kind: bootstrap intervals.

The pairs are drawn with replacement, as many of each kind in each fold as there are, and the whole protocol is run on
every such set, its thresholds chosen anew. An interval is between percentiles of what comes out (B. Efron, "Bootstrap
methods: another look at the jackknife", 1979; B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993,
13.3).

A set that was drawn is the number of times that each pair is in it. With the pairs in falling order of score, sums of
these numbers are all the protocol asks for, so many sets are judged at once.

The method has two limits. Pairs that share a person are not independent, as it takes them to be: the true uncertainty
is somewhat larger. And a rate that allows a false accept or two hangs on those few pairs: of sets simulated with 1,000
impostors, the interval held the true rate in 98 % where ten may be accepted, and in 80 % where one may.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recipes.faces.judging.protocols import accepts_allowed, fold_numbers

Interval = tuple[float, float]
_Ints = npt.NDArray[np.int64]
_CELLS = 1 << 22  # pairs times sets judged at once


@dataclass(frozen=True)
class _Pairs:
    """Pairs in falling order of score: K distinct scores, falling, and where the last pair of each stands."""

    same: npt.NDArray[np.bool_]
    fold: _Ints
    values: npt.NDArray[np.float64]
    last: _Ints


def bootstrap_intervals(
    scores: npt.NDArray[np.float64],
    same: npt.NDArray[np.bool_],
    folds: int | npt.ArrayLike,
    fars: Sequence[float],
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[Interval, dict[float, Interval | None]]:
    """Percentile intervals of the accuracy and of TAR at each FAR.

    Args:
        scores: finite, ``[N]``.
        same: bool ``[N]``, of both kinds.
        folds: as :func:`recipes.faces.judging.protocols.fold_numbers`.
        fars: false accept rates.
        resamples: sets drawn.
        level: share of them between the ends of an interval.
        seed: of the drawing.

    Returns:
        Low and high end for the accuracy, and for each rate; None for a rate that the set has too few impostors for.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    pairs = _Pairs(same[order], fold_numbers(same, folds)[order], falling[last], last)
    impostors = int((~same).sum())
    measured = [far for far in fars if accepts_allowed(far, impostors) >= 1]
    rows = []
    for times in _draw(pairs, resamples, np.random.default_rng(seed)):
        rates = [_tar(times, pairs, accepts_allowed(far, impostors)) for far in measured]
        rows.append(np.stack([_accuracy(times, pairs), *rates]))
    ends = np.percentile(np.concatenate(rows, axis=1), [50 - 50 * level, 50 + 50 * level], axis=1)
    accuracy, *tars = [(float(low), float(high)) for low, high in ends.T]
    return accuracy, dict.fromkeys(fars) | dict(zip(measured, tars, strict=True))


def _draw(pairs: _Pairs, resamples: int, random: np.random.Generator) -> Iterator[_Ints]:
    """How many times each pair is in each set: int64 ``[B, N]``, some of the sets at a time."""
    count = len(pairs.same)
    strata = [np.flatnonzero(pairs.fold * 2 + pairs.same == i) for i in range(2 * int(pairs.fold.max()) + 2)]
    rows = max(1, _CELLS // count)
    for start in range(0, resamples, rows):
        sets = min(rows, resamples - start)
        times = np.zeros((sets, count), np.int64)
        for members in strata:
            size = len(members)
            drawn = random.integers(size, size=(sets, size)) if size else np.empty((sets, 0), np.int64)
            cells = drawn + size * np.arange(sets)[:, None]
            times[:, members] = np.bincount(cells.ravel(), minlength=sets * size).reshape(sets, size)
        yield times


def _accepted(times: _Ints, pairs: _Pairs, of: npt.NDArray[np.bool_]) -> _Ints:
    """How many of the pairs ``of`` are accepted with the k highest scores, k from 0: ``[B, K + 1]``."""
    sums = np.cumsum(times * of, axis=1)[:, pairs.last]
    return np.concatenate([np.zeros((len(times), 1), np.int64), sums], axis=1)


def _tar(times: _Ints, pairs: _Pairs, allowed: int) -> npt.NDArray[np.float64]:
    genuine = _accepted(times, pairs, pairs.same)
    within = (_accepted(times, pairs, ~pairs.same) <= allowed).sum(1) - 1
    rate: npt.NDArray[np.float64] = genuine[np.arange(len(times)), within] / genuine[:, -1]
    return rate


def _accuracy(times: _Ints, pairs: _Pairs) -> npt.NDArray[np.float64]:
    """:func:`recipes.faces.judging.protocols.kfold_accuracy` of each set."""
    row = np.arange(len(times))
    genuine, impostors = _accepted(times, pairs, pairs.same), _accepted(times, pairs, ~pairs.same)
    accuracies = []
    for i in range(int(pairs.fold.max()) + 1):
        inside = pairs.fold == i
        genuine_in = _accepted(times, pairs, pairs.same & inside)
        impostors_in = _accepted(times, pairs, ~pairs.same & inside)
        genuine_out, impostors_out = genuine - genuine_in, impostors - impostors_in
        best = np.argmax(genuine_out - impostors_out, axis=1)
        # The threshold is halfway between the lowest score of the other folds that it accepts and the next below.
        out = genuine_out + impostors_out
        more = out > out[row, best][:, None]
        below = np.argmax(more, axis=1) - 1
        low, high = pairs.values[below], pairs.values[best - 1]
        middle = low / 2 + high / 2
        middle = np.where(middle > low, middle, high)
        between = np.searchsorted(-pairs.values, -middle, side="right")
        k = np.where(best == 0, below, np.where(more.any(1), between, best))
        right = genuine_in[row, k] + impostors_in[:, -1] - impostors_in[row, k]
        accuracies.append(right / inside.sum())
    mean: npt.NDArray[np.float64] = np.mean(accuracies, axis=0)
    return mean
