"""Searching a gallery against a loop over every search."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recipes.faces.judging import identification
from recipes.faces.judging.all_pairs import numbered, unit_rows
from recipes.faces.judging.identification import rank_one, search, true_positive_rates
from reparam_kit import InputError


def faces(seed: int) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.arange(20), rng.integers(20, size=40)]))
    centres = rng.normal(size=(20, 6))
    return unit_rows(centres[labels] + 0.8 * rng.normal(size=(60, 6))), numbered(labels)[0]


def slow(rows: torch.Tensor, people: np.ndarray, times: np.ndarray, fpir: float) -> tuple[float, float]:
    gallery = {int(p): int(np.flatnonzero(people == p)[0]) for p in np.unique(people)}
    found, strangers = [], []
    for i in range(len(rows)):
        scores = {p: round(float(rows[i] @ rows[g]) * 2**20) / 2**20 for p, g in gallery.items()}
        own = scores.pop(int(people[i]))
        strangers.append((max(scores.values()), times[people[i]]))
        if i not in gallery.values():
            found.append((own, own > max(scores.values()), times[people[i]]))
    allowed, bound = fpir * sum(w for _, w in strangers), -2.0
    for score, weight in sorted(strangers, reverse=True):
        allowed -= weight
        if allowed < -1e-9:
            bound = score
            break
    total = sum(w for *_, w in found)
    return (
        sum(w for _, hit, w in found if hit) / total,
        sum(w for own, hit, w in found if hit and own > bound) / total,
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("cells", [7 * 20, 1 << 22])
def test_searches_are_those_of_a_loop(
    monkeypatch: pytest.MonkeyPatch, seed: int, drawn: bool, cells: int
) -> None:
    monkeypatch.setattr(identification, "_CELLS", cells)
    rows, people = faces(seed)
    times = np.random.default_rng(seed).multinomial(20, np.ones(20) / 20).astype(float) if drawn else None
    searches = search(rows, people)
    for fpir in (0.5, 0.1, 0.05):
        expected = slow(rows, people, np.ones(20) if times is None else times, fpir)
        assert rank_one(searches, times) == pytest.approx(expected[0])
        assert true_positive_rates(searches, [fpir], times) == [pytest.approx(expected[1])]


def test_a_rate_below_one_stranger_is_not_measurable() -> None:
    searches = search(*faces(0))
    assert np.isnan(true_positive_rates(searches, [0.9 / 60])[0])
    assert not np.isnan(true_positive_rates(searches, [1 / 60])[0])


@pytest.mark.parametrize("people", [[0, 0, 0], [0, 1, 2]])
def test_people_who_cannot_be_searched_are_refused(people: list[int]) -> None:
    with pytest.raises(InputError, match="two people, and one with two images"):
        search(unit_rows(np.eye(3)), np.array(people))
