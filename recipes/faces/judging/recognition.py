"""Figures of recognition from the embeddings of one model, and the same of people drawn anew.

Intervals come from resampling *people*, not pairs: pairs of one person stand or fall together. In a resample person
``p`` occurs ``c_p`` times, a genuine pair then counts ``c_p`` times and an impostor pair ``c_p c_q`` times (the
subsets bootstrap of N. Poh, S. Bengio, "Estimating the confidence interval of expected performance curve in biometric
authentication using joint bootstrap", ICASSP 2007). The impostors of a mixed population are drawn apart from the
people, image by image (person by person where they have labels). Thresholds move with what is drawn. Only of d' the
impostors are taken as they are: millions of pairs hardly move it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from torch import Tensor

from recipes.faces.judging.all_pairs import (
    Floats,
    Genuine,
    Impostors,
    Ints,
    genuine_pairs,
    impostor_pairs,
    shown,
    true_accept_rates,
)
from recipes.faces.judging.bootstrap import interval
from recipes.faces.judging.evaluation import SEPARATION, tar_name
from recipes.faces.judging.identification import Searches, rank_one, search, true_positive_rates
from recipes.faces.judging.verdict import Figure

RANK_ONE = "rank-1"
FPIRS = (1e-2, 1e-3)
DECISIVE = 30  # impostor pairs above a threshold, from which on a rate may decide

_RESAMPLED = (
    10  # impostor pairs, or strangers, above a threshold, below which resampling tells too little of it
)
_SOUND = 0.9  # of what is drawn, that has to be measurable
_MIXED = ", mixed"  # what names of figures of a mixed population end with
_DECADES = range(2, 13)
_NOT_ALIKE = 0.1  # of genuine pairs, those that are less alike than what is called one person

Times: TypeAlias = tuple[Floats, Floats]  # how often each person and each impostor counts


def tpir_name(fpir: float) -> str:
    """Return what the true positive identification rate at a false positive identification rate is called,
    everywhere.
    """
    return f"TPIR at FPIR {fpir:g}"


@dataclass(frozen=True)
class Asked:
    """The figures that so many pairs can show, those of a mixed population first.

    Attributes:
        own: number of impostor pairs of the people themselves.
        mixed: that of a mixed population; None: there is none.
        searches: images that are searched as strangers.
    """

    own: int
    mixed: int | None
    searches: int

    @property
    def rates(self) -> list[tuple[str, float, int]]:
        """Name, false accept rate and number of impostor pairs of each TAR, and one more that is not measurable."""
        found = []
        for pairs, kind in ((self.mixed, _MIXED), (self.own, "")):
            for far in (float(f"1e-{decade}") for decade in _DECADES if pairs is not None):
                found.append((tar_name(far) + kind, far, pairs or 0))
                if not shown(far, pairs or 0):
                    break
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """Of all figures."""
        found = (RANK_ONE, *map(tpir_name, FPIRS))
        return (*(name for name, _, _ in self.rates), SEPARATION, *found)

    @property
    def decisive(self) -> str:
        """The figure that decides unless another is asked for."""
        enough = [(name, name.endswith(_MIXED)) for name, far, of in self.rates if shown(far, of, DECISIVE)]
        best = [name for name, mixed in enough if mixed] or [name for name, _ in enough]
        return best[-1] if best else SEPARATION

    def missing(self, name: str) -> str:
        """Return why a figure has no value."""
        for rate, far, pairs in self.rates:
            if rate == name:
                return f"not measurable: {far:g} of {pairs:,} impostor pairs is less than one"
        if name == SEPARATION:
            return "not measurable: similarities do not differ"
        return f"not measurable: {name.split()[-1]} of {self.searches:,} searches is less than one"

    def resampled(self, name: str) -> bool:
        """Return whether people drawn anew show how sure a figure is."""
        tested = [(tpir_name(fpir), fpir, self.searches) for fpir in FPIRS]
        return all(shown(rate, of, _RESAMPLED) for known, rate, of in (*self.rates, *tested) if known == name)


@dataclass(frozen=True, eq=False)
class Recognition:
    """What one model said of people, and of others.

    Attributes:
        genuine: pairs of one person.
        own: pairs of two people.
        mixed: pairs of two others; None: there are none.
        searches: of each person's images among the people.
    """

    genuine: Genuine
    own: Impostors
    mixed: Impostors | None
    searches: Searches

    @classmethod
    def of(cls, people: tuple[Tensor, Ints], others: tuple[Tensor, Ints, Ints] | None) -> Recognition:
        """Compare embeddings of length 1 of ``people``, and those of ``others``, of which some pairs are left out."""
        mixed = None if others is None else impostor_pairs(*others)
        return cls(genuine_pairs(*people), impostor_pairs(*people), mixed, search(*people))

    def asked(self) -> Asked:
        """Return what there are pairs enough for."""
        return Asked(
            self.own.pairs, None if self.mixed is None else self.mixed.pairs, len(self.searches.strangers)
        )

    def figures(self, asked: Asked, times: Times | None = None) -> Floats:
        """Return the value of each figure that is asked for, NaN where there is none; everybody once unless ``times``
        says.
        """
        ours = None if times is None else times[0]
        mixed = [far for name, far, _ in asked.rates if name.endswith(_MIXED)]
        own = [far for name, far, _ in asked.rates if not name.endswith(_MIXED)]
        rates = [] if self.mixed is None else [true_accept_rates(self.genuine, self.mixed, mixed, times)]
        rates.append(true_accept_rates(self.genuine, self.own, own, None if ours is None else (ours, ours)))
        found = [rank_one(self.searches, ours), *true_positive_rates(self.searches, FPIRS, ours)]
        return np.concatenate([*rates, [self.separation(ours)], found])

    def separation(self, times: Floats | None = None) -> float:
        """Return d' of genuine and impostor pairs, as :func:`recipes.faces.d_prime`; NaN where they have no spread."""
        scores, (centre, variance) = self.genuine.scores, self.own.moments
        weights = np.ones(len(scores)) if times is None else times[self.genuine.people]
        if not weights.any():
            return float("nan")
        mean = np.average(scores, weights=weights)
        spread = (np.average((scores - mean) ** 2, weights=weights) + variance) / 2
        return float((mean - centre) / np.sqrt(spread)) if spread else float("nan")

    def resampled(self, asked: Asked, sets: int, seed: int = 0, separation_alone: bool = False) -> Floats:
        """Return the figures of ``sets`` times as many people and others, drawn with replacement: ``[sets,
        figures]``; with ``separation_alone`` NaN in the place of all but d', the quickest.
        """
        rng = np.random.default_rng(seed)
        others = 1 if self.mixed is None else len(self.mixed.per_person)

        def draw(count: int) -> Floats:
            return np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)

        people = self.genuine.count
        times = ((draw(people), draw(others)) for _ in range(sets))
        if not separation_alone:
            return np.stack([self.figures(asked, drawn) for drawn in times])
        found = np.full((sets, len(asked.names)), np.nan)
        found[:, asked.names.index(SEPARATION)] = [self.separation(ours) for ours, _ in times]
        return found

    def alike_from(self) -> float:
        """Return the similarity above which two faces are alike as those of one person are.

        Nine in ten genuine pairs lie above it, and fewer impostor pairs than the lowest rate that decides.
        """
        bound = float(np.quantile(self.genuine.scores, _NOT_ALIKE))
        rates = [far for _, far, pairs in self.asked().rates if shown(far, pairs, DECISIVE)]
        return max(bound, self.own.threshold(rates[-1])) if rates else bound


def shown_figure(asked: Asked, number: int, values: Floats, drawn: Floats | None) -> Figure:
    """Figure ``number`` of ``values``, with the interval of what was ``drawn``."""
    name, value = asked.names[number], float(values[number])
    if not np.isfinite(value):
        return Figure(name, None, share=name != SEPARATION, missing=asked.missing(name))
    sound = None if drawn is None or not asked.resampled(name) else sound_of(drawn[:, number])
    return Figure(name, value, interval=None if sound is None else interval(sound), share=name != SEPARATION)


def sound_of(drawn: Floats) -> Floats | None:
    """Return what was drawn and could be measured; None where that is less than nine in ten."""
    finite = drawn[np.isfinite(drawn)]
    return finite if len(finite) >= _SOUND * len(drawn) else None
