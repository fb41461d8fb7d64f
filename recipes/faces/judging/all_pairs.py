"""Every pair of labelled images: what a few thousand listed pairs cannot show.

A set of N images holds N^2 / 2 pairs, nearly all of different people, so it reaches false accept rates that decide at a
door (1e-5, 1e-6) where a list of 1,200 pairs ends at 1e-2. The images are compared block by block: 100,000 of them need
memory for the embeddings, a histogram and the impostor pairs that are most alike.

Similarities are computed in float64 and taken in steps of 2^-20, about a millionth: embeddings in float32 cannot tell
more apart, and pairs that are equally alike are equal, however the products were summed. The histogram has a bin for
each step, and thresholds found in it are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.faces.judging.protocols import accepts_allowed
from reparam_kit import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

STEP = 2.0**-20  # what similarities are rounded to
LOWEST = -2.0  # a threshold that every pair passes

_BLOCK = 2048  # rows, and columns, compared at once: a block of similarities is 32 MiB
_MOST = 200_000  # impostor pairs kept, at most
_SLACK = (
    2  # times as many pairs are kept as the highest rate accepts: of people drawn anew it may accept more
)
_ZERO = round(1 / STEP)  # level of a similarity of 0, if that of -1 is 0
_LEVELS = 2 * _ZERO + 1
_ROUGH = 1e-5  # more than similarities computed in float32 are wrong by


@dataclass(frozen=True, eq=False)
class Genuine:
    """The pairs of one person's images.

    Attributes:
        scores: cosine similarity, rising, float64 ``[G]``.
        people: whose pair each is, int64 ``[G]``.
        count: number of people in the set, also those without a pair.
    """

    scores: Floats
    people: Ints
    count: int


@dataclass(frozen=True, eq=False)
class Impostors:
    """The pairs of different people.

    Attributes:
        scores: cosine similarity of the most alike, falling, float64 ``[K]``.
        people: the two people of each, int64 ``[K, 2]``.
        values, counts: the similarities of all pairs, each once, rising, float64 ``[V]``, and how many have it, int64.
        per_person: images of each person, int64 ``[P]``.
        apart: the two people of each pair that was left out, int64 ``[E, 2]``.
    """

    scores: Floats
    people: Ints
    values: Floats
    counts: Ints
    per_person: Ints
    apart: Ints

    @cached_property
    def pairs(self) -> int:
        """Number of pairs in the set, of which ``scores`` has the first K."""
        return int(self._upto[-1])

    @cached_property
    def _upto(self) -> Ints:
        """How many pairs have each similarity at most."""
        return np.cumsum(self.counts)

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and variance of the similarity of all pairs."""
        mean = float(self.counts @ self.values / self.pairs)
        return mean, float(self.counts @ (self.values - mean) ** 2 / self.pairs)

    def threshold(self, far: float) -> float:
        """Return the lowest similarity that no more than the share ``far`` of all pairs lies above."""
        allowed = accepts_allowed(far, self.pairs)
        if allowed >= self.pairs:
            return LOWEST
        return float(self.values[np.searchsorted(self._upto, self.pairs - allowed)])

    def total(self, times: Floats) -> float:
        """Return the number of pairs where each person counts as often as ``times`` says, float64 ``[P]``."""
        images = times * self.per_person
        left_out = times[self.apart].prod(axis=1).sum()
        return float((images.sum() ** 2 - (images**2).sum()) / 2 - left_out)


def unit_rows(embeddings: npt.ArrayLike) -> Tensor:
    """Scale embeddings ``[N, D]`` to length 1: float64 tensor.

    Raises:
        InputError: one is zero or not finite: it has no direction.
    """
    rows = torch.from_numpy(np.asarray(embeddings, np.float64))
    norms = rows.norm(dim=1)
    bad = torch.nonzero(~norms.isfinite() | (norms == 0)).flatten()
    if len(bad):
        raise InputError(
            f"the embedding of image {int(bad[0])} is zero or not finite ({len(bad)} of {len(rows)} are)"
        )
    return F.normalize(rows, dim=1)


def levels_of(first: Tensor, second: Tensor) -> Tensor:
    """Count how many ``STEP`` the cosine similarities of rows of length 1 are, whole numbers: float64 ``[N, M]``."""
    return ((first / STEP) @ second.T).round_()


def alike(first: Tensor, second: Tensor) -> Tensor:
    """Cosine similarities of rows of length 1, in steps of ``STEP``: float64 ``[N, M]``."""
    return levels_of(first, second).mul_(STEP)


def numbered(labels: npt.ArrayLike) -> tuple[Ints, int]:
    """Number people ``0 .. P - 1`` in the order of their labels: int64 ``[N]``, and P."""
    known, numbers = np.unique(np.asarray(labels), return_inverse=True)
    return numbers.astype(np.int64), len(known)


def genuine_pairs(rows: Tensor, people: Ints) -> Genuine:
    """Compare all images of each person with each other.

    Args:
        rows: embeddings of length 1, ``[N, D]``.
        people: whose image each is, ``0 .. P - 1``, int64 ``[N]``.
    """
    order = np.argsort(people, kind="stable")
    ends = np.flatnonzero(np.diff(people[order], append=-1)) + 1
    scores, whose = [], []
    for group in np.split(order, ends[:-1]):
        own = rows[torch.from_numpy(group)]
        first, second = torch.triu_indices(len(group), len(group), offset=1)
        scores.append(alike(own, own)[first, second])
        whose.append(np.full(len(first), people[group[0]]))
    found, of = torch.cat(scores).numpy(), np.concatenate(whose)
    rising = np.argsort(found, kind="stable")
    return Genuine(found[rising], of[rising], int(people.max()) + 1)


def impostor_pairs(
    rows: Tensor, people: Ints, apart: Ints | None = None, *, highest: float = 1e-2, most: int = _MOST
) -> Impostors:
    """Compare all images of different people.

    Args:
        rows: embeddings of length 1, ``[N, D]``.
        people: whose image each is, ``0 .. P - 1``, int64 ``[N]``.
        apart: pairs of images that are left out, int64 ``[E, 2]``.
        highest: false accept rate up to which thresholds depend on the pairs that are kept.
        most: how many pairs to keep at most.

    Raises:
        InputError: there is no pair.
    """
    order = np.argsort(people, kind="stable")
    place = np.argsort(order, kind="stable")
    left_out = np.empty((0, 2), np.int64) if apart is None else np.sort(place[apart], axis=1)
    whose = people[order]
    left_out = left_out[whose[left_out[:, 0]] != whose[left_out[:, 1]]]
    blocks = _Blocks(rows[torch.from_numpy(order)], torch.from_numpy(whose), left_out)
    found, counts = blocks.histogram()
    pairs = int(counts.sum())
    if not pairs:
        raise InputError("impostor pairs need images of two people at least")
    wanted = min(pairs, most, _SLACK * (accepts_allowed(highest, pairs) + 1))
    bound = found[np.searchsorted(np.cumsum(counts), pairs - wanted)] if wanted < pairs else -1
    levels, at = blocks.above(bound)
    falling = torch.argsort(levels, descending=True, stable=True)
    return Impostors(
        levels[falling].numpy() * STEP - 1,
        whose[at[falling].numpy()],
        found.astype(np.float64) * STEP - 1,
        counts,
        np.bincount(people).astype(np.int64),
        whose[left_out],
    )


class _Blocks:
    """All pairs of rows ``[N, D]`` of length 1 that stand person by person, without those ``apart``, block by block."""

    def __init__(self, rows: Tensor, people: Tensor, apart: Ints) -> None:
        self._rows, self._people, self._apart = rows, people, apart
        self._rough = rows.float()

    def histogram(self) -> tuple[Ints, Ints]:
        """Return the levels that there are, rising, and how many pairs have each."""
        counts = torch.zeros(_LEVELS + 1, dtype=torch.int64)
        for ours, theirs in self._places():
            levels = levels_of(self._rows[ours], self._rows[theirs]).int().add_(_ZERO + 1)
            for none in self._no_pairs(ours, theirs):
                levels[none] = 0
            counts += torch.bincount(levels.flatten(), minlength=_LEVELS + 1)
        found = torch.nonzero(counts[1:]).flatten()
        return found.numpy(), counts[1:][found].numpy()

    def above(self, bound: int) -> tuple[Tensor, Tensor]:
        """Return the pairs above level ``bound``: their levels float64 ``[K]`` and their rows int64 ``[K, 2]``.

        Only those that float32 finds near or above it are computed in float64.
        """
        levels, at = [], []
        near = (bound - _ZERO) * STEP - _ROUGH
        for ours, theirs in self._places():
            maybe = self._rough[ours] @ self._rough[theirs].T > near
            for none in self._no_pairs(ours, theirs):
                maybe[none] = False
            found = torch.nonzero(maybe) + torch.tensor([ours.start, theirs.start])
            first, second = (self._rows[column] for column in found.T)
            exact = (first / STEP * second).sum(dim=1).round_().add_(_ZERO)
            at.append(found[exact > bound])
            levels.append(exact[exact > bound])
        return torch.cat(levels), torch.cat(at)

    def _places(self) -> Iterator[tuple[slice, slice]]:
        starts = range(0, len(self._rows), _BLOCK)
        for first in starts:
            for second in starts[first // _BLOCK :]:
                yield slice(first, first + _BLOCK), slice(second, second + _BLOCK)

    def _no_pairs(self, ours: slice, theirs: slice) -> Iterator[Any]:
        """Return the index of pairs of a block that are of one person, or are left out."""
        if self._people[theirs.start] <= self._people[ours][-1]:  # else no person has images in both
            yield self._people[ours, None] >= self._people[theirs]
        starts = np.array([ours.start, theirs.start])
        inside = self._apart[((self._apart >= starts) & (self._apart < starts + _BLOCK)).all(axis=1)]
        if len(inside):
            yield tuple(torch.from_numpy(inside - starts).T)


def alike_pairs(rows: Tensor, bound: float) -> Ints:
    """Return the pairs of images more alike than ``bound``, int64 ``[E, 2]``: rows of ``rows`` ``[N, D]``, of
    length 1.
    """
    blocks = _Blocks(rows, torch.arange(len(rows)), np.empty((0, 2), np.int64))
    return blocks.above(round((bound + 1) / STEP))[1].numpy()


def shown(far: float, pairs: int, above: int = 1) -> bool:
    """Return whether the rate ``far`` accepts at least ``above`` of so many impostor pairs."""
    return accepts_allowed(far, pairs) >= above


def true_accept_rates(
    genuine: Genuine,
    impostors: Impostors,
    fars: Sequence[float],
    times: tuple[Floats, Floats] | None = None,
) -> Floats:
    """Return the share of genuine pairs above the threshold of each false accept rate, float64 ``[len(fars)]``.

    As :func:`recipes.faces.tar_at_far`: the threshold accepts at most the share ``far`` of the impostor pairs, and
    pairs of equal score are not told apart. NaN where that share is less than a pair.

    Args:
        genuine: pairs of one person.
        impostors: pairs of different people, of the same set or of another one.
        fars: false accept rates.
        times: how often each person of either set counts; None: once. Where more impostor pairs lie above a threshold
            than are kept, it is that of all people as they are: so many hardly move it.
    """
    ours, theirs = (None, None) if times is None else times
    weights = np.ones(len(genuine.scores)) if ours is None else ours[genuine.people]
    return shares_above(genuine.scores, weights, thresholds(impostors, fars, theirs))


def thresholds(impostors: Impostors, fars: Sequence[float], times: Floats | None = None) -> Floats:
    """Return the threshold of each rate, float64 ``[len(fars)]``; NaN where a rate is less than a pair.

    The arguments are those of :func:`true_accept_rates`, ``times`` of the impostors.
    """
    known = [impostors.threshold(far) if shown(far, impostors.pairs) else np.nan for far in fars]
    bounds = np.array(known, np.float64)
    if times is None:
        return bounds
    accepted = np.cumsum(times[impostors.people[:, 0]] * times[impostors.people[:, 1]])
    total, kept = impostors.total(times), len(impostors.scores)
    for i, far in enumerate(fars):
        refused = int(np.searchsorted(accepted, far * total + 1e-9, "right"))
        if kept == impostors.pairs and refused == kept:
            bounds[i] = LOWEST
        elif refused < kept and not shown(far, impostors.pairs, kept // _SLACK + 1):
            bounds[i] = impostors.scores[refused]
    return bounds


def shares_above(rising: Floats, weights: Floats, bounds: Floats) -> Floats:
    """Return the share of the weight ``[G]`` of scores ``[G]`` above each bound, ``[F]``; NaN without a bound or a
    weight.
    """
    upto = np.append(0, np.cumsum(weights))
    if not upto[-1]:
        return np.full(len(bounds), np.nan)
    above = upto[-1] - upto[np.searchsorted(rising, bounds, "right")]
    return np.where(np.isnan(bounds), np.nan, above / upto[-1])
