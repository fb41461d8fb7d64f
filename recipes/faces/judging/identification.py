"""Searching a gallery: whose face is this, and is it anyone's at all.

The gallery holds the first image of each person; every other image is searched in it. For the open set each image is
searched once more in the gallery without its own person, as a stranger's would be.

Source: P. J. Grother, M. L. Ngan, K. K. Hanaoka, "Face Recognition Vendor Test part 2: identification", NISTIR 8271,
2019 (rank-1, and the true positive identification rate at a false positive identification rate).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reparam_kit import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_BLOCK = 2048  # images searched at once


@dataclass(frozen=True, eq=False)
class Searches:
    """What searching a gallery gave.

    Attributes:
        hits: whether the person of each searched image came first, bool ``[M]``.
        scores: similarity to the own person's image in the gallery, float64 ``[M]``.
        people: whose image each is, int64 ``[M]``.
        strangers: similarity of each image of the set to the most alike person but its own, float64 ``[N]``.
        stranger_people: whose image each of these is, int64 ``[N]``.
        count: number of people.
    """

    hits: npt.NDArray[np.bool_]
    scores: Floats
    people: Ints
    strangers: Floats
    stranger_people: Ints
    count: int


def search(rows: Tensor, people: Ints) -> Searches:
    """Search every image in the gallery of each person's first one.

    Args:
        rows: embeddings of length 1, ``[N, D]``.
        people: whose image each is, ``0 .. P - 1``, int64 ``[N]``.

    Raises:
        InputError: no person has two images, or there is one person alone.
    """
    known, first = np.unique(people, return_index=True)
    if len(known) < 2 or len(known) == len(people):
        raise InputError(
            f"identification needs two people, and one with two images: {len(people)} images show {len(known)} people"
        )
    gallery = rows[torch.from_numpy(first)]
    own, best_other = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        alike = rows[start : start + _BLOCK] @ gallery.T
        at = torch.from_numpy(people[start : start + _BLOCK])[:, None]
        own[start : start + _BLOCK] = alike.gather(1, at)[:, 0].double()
        best_other[start : start + _BLOCK] = alike.scatter(1, at, -torch.inf).amax(dim=1).double()
    searched = np.ones(len(rows), bool)
    searched[first] = False
    return Searches(
        hits=(own > best_other)[searched],
        scores=own[searched],
        people=people[searched],
        strangers=best_other,
        stranger_people=people,
        count=len(known),
    )


def rank_one(searches: Searches, times: Floats | None = None) -> float:
    """The share of searched images whose person came first; each person counts as often as ``times`` says."""
    weights = _weights(searches.people, times)
    return float(weights[searches.hits].sum() / weights.sum())


def true_positive_rate(searches: Searches, fpir: float, times: Floats | None = None) -> float:
    """The share of searched images whose person came first and above a threshold.

    The threshold lets at most the share ``fpir`` of the strangers through. NaN where that is less than one of them.
    """
    weights = _weights(searches.stranger_people, times)
    order = np.argsort(-searches.strangers, kind="stable")
    accepted = np.cumsum(weights[order])
    if fpir * accepted[-1] < 1:
        return float("nan")
    refused = int(np.searchsorted(accepted, fpir * accepted[-1] * (1 + 1e-9), "right"))
    bound = searches.strangers[order[refused]] if refused < len(order) else -np.inf
    counted = _weights(searches.people, times)
    return float(counted[searches.hits & (searches.scores > bound)].sum() / counted.sum())


def _weights(people: Ints, times: Floats | None) -> Floats:
    return np.ones(len(people)) if times is None else times[people]
