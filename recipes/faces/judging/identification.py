"""Searching a gallery: whose face is this, and is it anyone's at all.

The gallery holds the first image of each person; every other image is searched in it. For the open set each image is
searched once more in the gallery without its own person, as a stranger's would be.

Source: P. J. Grother, M. L. Ngan, K. K. Hanaoka, "Face Recognition Vendor Test part 2: identification", NISTIR 8271,
2019 (rank-1, and the true positive identification rate at a false positive identification rate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recipes.faces.judging.all_pairs import LOWEST, Floats, Ints, alike, shares_above
from reparam_kit import InputError

_CELLS = 1 << 22  # similarities computed at once


@dataclass(frozen=True, eq=False)
class Searches:
    """What searching a gallery gave.

    Attributes:
        scores: of each searched image whose person came first its similarity to that person's image in the gallery, of
            another one ``LOWEST``; rising, float64 ``[M]``.
        people: whose image each is, int64 ``[M]``.
        strangers: similarity of each image of the set to the most alike person but its own, falling, float64 ``[N]``.
        stranger_people: whose image each of these is, int64 ``[N]``.
        found: whether each searched image's person came first, in the order of the set, bool ``[M]``.
    """

    scores: Floats
    people: Ints
    strangers: Floats
    stranger_people: Ints
    found: npt.NDArray[np.bool_]


def parted(people: Ints) -> tuple[Ints, Ints]:
    """Return which images are the gallery, the first one of each person, and which are searched in it.

    Args:
        people: whose image each is, int64 ``[N]``.
    """
    _, first = np.unique(people, return_index=True)
    return first, np.delete(np.arange(len(people)), first)


def search(rows: Tensor, people: Ints) -> Searches:
    """Search every image in the gallery of each person's first one.

    Args:
        rows: embeddings of length 1, ``[N, D]``.
        people: whose image each is, ``0 .. P - 1``, int64 ``[N]``.

    Raises:
        InputError: no person has two images, or there is one person alone.
    """
    first, searched = parted(people)
    if len(first) < 2 or not len(searched):
        raise InputError(
            f"identification needs two people, and one with two images: {len(people)} images show {len(first)} people"
        )
    gallery = rows[torch.from_numpy(first)]
    own, best_other = np.empty(len(rows)), np.empty(len(rows))
    block = max(1, _CELLS // len(gallery))
    for start in range(0, len(rows), block):
        found = alike(rows[start : start + block], gallery)
        at = torch.from_numpy(people[start : start + block])[:, None]
        own[start : start + block] = found.gather(1, at)[:, 0]
        best_other[start : start + block] = found.scatter(1, at, LOWEST).amax(dim=1)
    found_first = (own > best_other)[searched]
    scores = np.where(found_first, own[searched], LOWEST)
    rising, falling = np.argsort(scores, kind="stable"), np.argsort(-best_other, kind="stable")
    return Searches(
        scores[rising], people[searched][rising], best_other[falling], people[falling], found_first
    )


def rank_one(searches: Searches, times: Floats | None = None) -> float:
    """Return the share of searched images whose person came first; each person counts as often as ``times`` says."""
    return _shares(searches, [LOWEST], times)[0]


def true_positive_rates(
    searches: Searches, fpirs: Sequence[float], times: Floats | None = None
) -> list[float]:
    """Return the share of searched images whose person came first and above the threshold of each rate.

    A threshold lets at most the share ``fpir`` of the strangers through. NaN where that is less than one of them.
    """
    accepted = np.cumsum(_weights(searches.stranger_people, times))
    bounds = []
    for fpir in fpirs:
        refused = int(np.searchsorted(accepted, fpir * accepted[-1] + 1e-9, "right"))
        bound = searches.strangers[refused] if refused < len(accepted) else LOWEST
        bounds.append(bound if fpir * accepted[-1] + 1e-9 >= 1 else np.nan)
    return _shares(searches, bounds, times)


def _shares(searches: Searches, bounds: Sequence[float], times: Floats | None) -> list[float]:
    weights = _weights(searches.people, times)
    found: list[float] = shares_above(searches.scores, weights, np.array(bounds)).tolist()
    return found


def _weights(people: Ints, times: Floats | None) -> Floats:
    return np.ones(len(people)) if times is None else times[people]
