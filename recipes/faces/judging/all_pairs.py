"""Every pair of labelled images: what a few thousand listed pairs cannot show.

A set of N images holds N^2 / 2 pairs, nearly all of different people, so it reaches false accept rates that decide at a
door (1e-5, 1e-6) where a list of 1,200 pairs ends at 1e-2. The images are compared block by block; of the impostor
pairs the most alike are kept, since no other one decides a rate that is asked for.

Intervals come from resampling *people*, not pairs: pairs of one person stand or fall together. In a resample person
``p`` occurs ``c_p`` times, a genuine pair then counts ``c_p`` times and an impostor pair ``c_p c_q`` times (the
subsets bootstrap of N. Poh, S. Bengio, "Estimating the confidence interval of expected performance curve in biometric
authentication using joint bootstrap", ICASSP 2007).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.faces.judging.protocols import accepts_allowed
from reparam_kit import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BLOCK = 2048  # rows compared at once: a block of similarities is 16 MiB
_MOST = 2_000_000  # impostor pairs kept, at most


@dataclass(frozen=True, eq=False)
class Genuine:
    """The pairs of one person's images.

    Attributes:
        scores: cosine similarity, float64 ``[G]``.
        people: whose pair each is, int64 ``[G]``.
        count: number of people in the set, also those without a pair.
    """

    scores: Floats
    people: Ints
    count: int


@dataclass(frozen=True, eq=False)
class Impostors:
    """The pairs of different people, the most alike of them.

    Attributes:
        scores: cosine similarity, falling, float64 ``[K]``.
        people: the two people of each, int64 ``[K, 2]``.
        pairs: number of impostor pairs in the set, of which these are the first K.
        mean, variance: of the similarity of all of them.
        per_person: images of each person, int64 ``[count]``.
    """

    scores: Floats
    people: Ints
    pairs: int
    mean: float
    variance: float
    per_person: Ints

    @property
    def count(self) -> int:
        return len(self.per_person)


def unit_rows(embeddings: npt.ArrayLike) -> Tensor:
    """Scale embeddings ``[N, D]`` to length 1: float32 tensor.

    Raises:
        InputError: one is zero or not finite: it has no direction.
    """
    rows = torch.from_numpy(np.asarray(embeddings, np.float32))
    norms = rows.norm(dim=1)
    bad = torch.nonzero(~norms.isfinite() | (norms == 0)).flatten()
    if len(bad):
        raise InputError(
            f"the embedding of image {int(bad[0])} is zero or not finite ({len(bad)} of {len(rows)} are)"
        )
    return F.normalize(rows, dim=1)


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
        scores.append((own @ own.T)[first, second])
        whose.append(np.full(len(first), people[group[0]]))
    return Genuine(torch.cat(scores).double().numpy(), np.concatenate(whose), int(people.max()) + 1)


def impostor_pairs(rows: Tensor, people: Ints, most: int = _MOST) -> Impostors:
    """Compare all images of different people, and keep the ``most`` pairs that are most alike.

    Args:
        rows: embeddings of length 1, ``[N, D]``.
        people: whose image each is, ``0 .. P - 1``, int64 ``[N]``.
        most: how many pairs to keep.
    """
    whose = torch.from_numpy(people)
    kept = _Most(most)
    pairs, total, squares = 0, 0.0, 0.0
    for start, block in _blocks(rows):
        part = rows[start:]
        alike = block @ part.T
        later = torch.arange(len(part)) > torch.arange(len(block))[:, None]
        other = later & (whose[start : start + len(block), None] != whose[start:])
        scores = alike[other]
        pairs += len(scores)
        total += float(scores.double().sum())
        squares += float(scores.double().square().sum())
        kept.add(alike, other, start)
    if not pairs:
        raise InputError("impostor pairs need images of two people at least")
    best, at = kept.sorted()
    mean = total / pairs
    return Impostors(
        best, people[at], pairs, mean, squares / pairs - mean * mean, np.bincount(people).astype(np.int64)
    )


def _blocks(rows: Tensor) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(rows), _BLOCK):
        yield start, rows[start : start + _BLOCK]


class _Most:
    """The largest scores seen so far, with the two images of each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bound = -2.0
        self._scores: list[Tensor] = []
        self._at: list[Tensor] = []
        self._held = 0

    def add(self, alike: Tensor, counted: Tensor, start: int) -> None:
        """Take the scores ``alike`` ``[B, M]`` where ``counted``, whose images begin at ``start``."""
        above = counted & (alike > self._bound)
        self._scores.append(alike[above])
        self._at.append(torch.nonzero(above) + start)
        self._held += len(self._scores[-1])
        if self._held > 2 * self._most:
            self._prune()

    def _prune(self) -> None:
        scores, at = torch.cat(self._scores), torch.cat(self._at)
        if len(scores) > self._most:
            best = scores.topk(self._most)
            scores, at = best.values, at[best.indices]
            self._bound = float(scores[-1])
        self._scores, self._at, self._held = [scores], [at], len(scores)

    def sorted(self) -> tuple[Floats, Ints]:
        """Falling scores float64 ``[K]`` and their images int64 ``[K, 2]``."""
        self._prune()
        order = torch.argsort(self._scores[0], descending=True, stable=True)
        return self._scores[0][order].double().numpy(), self._at[0][order].numpy()


def measurable(fars: Sequence[float], impostors: Impostors, above: int = 1) -> list[float]:
    """Those of ``fars`` that the impostor pairs can show, the highest first.

    Args:
        fars: false accept rates.
        impostors: the pairs that thresholds are set on.
        above: how many of them must be accepted at the least: more where a decision depends on the rate.
    """
    kept = len(impostors.scores)
    allowed = [(far, accepts_allowed(far, impostors.pairs)) for far in sorted(fars, reverse=True)]
    return [far for far, count in allowed if count >= above and (count < kept or kept == impostors.pairs)]


def true_accept_rates(
    genuine: Genuine,
    impostors: Impostors,
    fars: Sequence[float],
    times: tuple[Floats, Floats] | None = None,
) -> Floats:
    """The share of genuine pairs above the threshold of each false accept rate, float64 ``[len(fars)]``.

    As :func:`recipes.faces.tar_at_far`: the threshold accepts at most the share ``far`` of the impostor pairs, and
    pairs of equal score are not told apart.

    Args:
        genuine: pairs of one person.
        impostors: pairs of different people, of the same set or of another one.
        fars: false accept rates that are :func:`measurable`.
        times: how often each person of either set counts; None: once.
    """
    ours, theirs = times if times is not None else (np.ones(genuine.count), np.ones(impostors.count))
    weights = theirs[impostors.people].prod(axis=1)
    accepted = np.cumsum(weights)
    images = theirs * impostors.per_person
    total = (images.sum() ** 2 - (images**2).sum()) / 2
    counted = ours[genuine.people]
    rates = np.empty(len(fars))
    for i, far in enumerate(fars):
        first_refused = int(np.searchsorted(accepted, far * total + 1e-9, "right"))
        bound = impostors.scores[first_refused] if first_refused < len(impostors.scores) else -np.inf
        rates[i] = counted[genuine.scores > bound].sum() / counted.sum()
    return rates


def separation(genuine: Genuine, impostors: Impostors) -> float:
    """d' of genuine and impostor pairs, as :func:`recipes.faces.d_prime`."""
    spread = (genuine.scores.var() + impostors.variance) / 2
    return float((genuine.scores.mean() - impostors.mean) / np.sqrt(spread))
