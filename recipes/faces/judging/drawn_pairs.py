"""The figures of pairs on many sets drawn from them, at once: those of :mod:`recipes.faces.judging.protocols`.

A drawn set says how many times each pair is in it; it has as many of each kind in each fold as there are. Scores are
sorted once for all sets: what a threshold does is a sum over the pairs above it, to which a pair that is not in a set
adds nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recipes.faces.judging.protocols import Floats, Ints, accepts_allowed, between

Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int32]  # of pairs: half the memory to pass through


class SortedPairs:
    """Pairs of both kinds in the order of their scores, from the highest.

    Args:
        scores: ``[N]``, finite.
        same: bool ``[N]``, of both kinds.
        folds: the fold ``0 .. F - 1`` of each pair, int64 ``[N]``.
        fars: false accept rates.
    """

    def __init__(self, scores: Floats, same: Bools, folds: Ints, fars: Sequence[float]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._scores, self._same, self._folds = scores[self._order], same[self._order], folds[self._order]
        ends = np.append(self._scores[1:] != self._scores[:-1], True)  # equal scores are accepted together
        self._cuts = np.append(0, np.flatnonzero(ends) + 1)  # how many pairs a threshold can accept
        self._sizes = np.stack([np.bincount(folds), np.bincount(folds, ~same)], axis=1)
        self._fars = fars

    def figures(self, times: Ints) -> Floats:
        """Return accuracy, TAR at each FAR and d' of the sets ``times`` ``[B, N]``: ``[B, len(fars) + 2]``."""
        counts: Counts = times[:, self._order].astype(np.int32)
        return np.column_stack([self._accuracies(counts), *self._tars(counts), self._d_primes(counts)])

    def _accuracies(self, times: Counts) -> Floats:
        gains = np.where(self._same, times, -times)  # pairs judged right more by accepting them
        present, all_sums = times > 0, _sums(gains)
        shares = []
        for fold, (pairs, impostors) in enumerate(self._sizes):
            others = self._folds != fold
            sums = _sums(gains * others)
            thresholds = self._thresholds(present & others, sums)
            accepted = np.searchsorted(-self._scores, -thresholds, "right")
            shares.append((impostors + _at(all_sums, accepted) - _at(sums, accepted)) / pairs)
        accuracies: Floats = np.mean(shares, axis=0)
        return accuracies

    def _thresholds(self, present: Bools, sums: Counts) -> Floats:
        """Return of each set the highest threshold that is most accurate on the pairs that are ``present``."""
        accepted = self._cuts[sums[:, self._cuts].argmax(axis=1)]
        below = present & (np.arange(len(self._scores)) >= accepted[:, None])
        next_one = below.argmax(axis=1)
        last = self._scores[accepted - 1]
        low = np.where(_at(below, next_one), self._scores[next_one], last)
        return between(np.where(accepted > 0, last, np.nextafter(low, np.inf)), low)

    def _tars(self, times: Counts) -> list[Floats]:
        genuine, impostors = (_sums(times * kind)[:, self._cuts] for kind in (self._same, ~self._same))
        tars = []
        for far in self._fars:
            allowed = accepts_allowed(far, int((~self._same).sum()))
            last = (impostors <= allowed).sum(axis=1) - 1
            tars.append(_at(genuine, last) / genuine[:, -1] if allowed else np.full(len(times), np.nan))
        return tars

    def _d_primes(self, times: Counts) -> Floats:
        genuine, impostors = (self._moments(times, kind) for kind in (self._same, ~self._same))
        with np.errstate(divide="ignore", invalid="ignore"):
            return (genuine[0] - impostors[0]) / np.sqrt((genuine[1] + impostors[1]) / 2)

    def _moments(self, times: Counts, kind: Bools) -> tuple[Floats, Floats]:
        """Mean and variance of one kind's scores, as in :func:`recipes.faces.d_prime`."""
        times, scores, count = times[:, kind], self._scores[kind] - self._scores[0], kind.sum()
        highest = scores[(times > 0).argmax(axis=1)]
        away = scores - highest[:, None]
        mean = (times * away).sum(axis=1) / count
        variance = (times * (away - mean[:, None]) ** 2).sum(axis=1) / count
        return highest + mean, variance


def _sums(values: Counts) -> Counts:
    """Sum of each row's first ``0 .. N`` values: ``[B, N]`` to ``[B, N + 1]``."""
    sums = np.zeros((len(values), values.shape[1] + 1), values.dtype)
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def _at(rows: npt.NDArray[Any], columns: Ints) -> npt.NDArray[Any]:
    """Return one value of each row."""
    return rows[np.arange(len(rows)), columns]
