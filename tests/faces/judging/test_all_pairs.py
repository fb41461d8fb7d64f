"""All pairs against a slow implementation that shares no code with it: every pair in a Python loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recipes.faces.judging import all_pairs
from recipes.faces.judging.all_pairs import (
    alike_pairs,
    genuine_pairs,
    impostor_pairs,
    numbered,
    shown,
    true_accept_rates,
    unit_rows,
)
from recipes.faces.judging.protocols import tar_at_far
from reparam_kit import InputError


def faces(
    images: int = 60, people: int = 17, size: int = 8, seed: int = 0
) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(people, size=images)
    centres = rng.normal(size=(people, size))
    rows = unit_rows(centres[labels] + 0.7 * rng.normal(size=(images, size)))
    return rows, numbered(labels)[0]


def every_pair(rows: torch.Tensor, people: np.ndarray) -> list[tuple[float, int, int]]:
    vectors = rows.numpy()
    return [
        (round(float(vectors[i] @ vectors[j]) * 2**20) / 2**20, int(people[i]), int(people[j]))
        for i in range(len(vectors))
        for j in range(i + 1, len(vectors))
    ]


def slow_tar(pairs: list[tuple[float, int, int]], far: float, times: np.ndarray) -> float:
    """By sorting all pairs and walking down, where person p counts ``times[p]`` times."""
    genuine = [(score, times[p]) for score, p, q in pairs if p == q]
    impostors = sorted(((score, times[p] * times[q]) for score, p, q in pairs if p != q), reverse=True)
    allowed, bound = far * sum(weight for _, weight in impostors), -2.0
    for score, weight in impostors:
        allowed -= weight
        if allowed < -1e-9:
            bound = score
            break
    return sum(weight for score, weight in genuine if score > bound) / sum(weight for _, weight in genuine)


@pytest.mark.parametrize("block", [23, 2048])
@pytest.mark.parametrize("far", [0.3, 0.1, 0.01, 0.002])
def test_rates_are_those_of_walking_down_every_pair(
    monkeypatch: pytest.MonkeyPatch, block: int, far: float
) -> None:
    monkeypatch.setattr(all_pairs, "_BLOCK", block)
    rows, people = faces()
    genuine, impostors = genuine_pairs(rows, people), impostor_pairs(rows, people)
    pairs = every_pair(rows, people)
    assert len(genuine.scores) + impostors.pairs == len(pairs)
    (rate,) = true_accept_rates(genuine, impostors, [far])
    assert rate == pytest.approx(slow_tar(pairs, far, np.ones(17)))
    assert rate == pytest.approx(tar_at_far([s for s, _, _ in pairs], [p == q for _, p, q in pairs], far))
    apart = [score for score, p, q in pairs if p != q]
    assert impostors.moments == pytest.approx((np.mean(apart), np.var(apart)))


def test_a_person_counts_as_often_as_he_was_drawn() -> None:
    rows, people = faces(seed=1)
    genuine, impostors = genuine_pairs(rows, people), impostor_pairs(rows, people, highest=0.4)
    times = np.random.default_rng(2).multinomial(genuine.count, np.ones(genuine.count) / genuine.count)
    times = times.astype(float)
    for far in (0.3, 0.1, 0.01):
        (rate,) = true_accept_rates(genuine, impostors, [far], (times, times))
        assert rate == pytest.approx(slow_tar(every_pair(rows, people), far, times))


@pytest.mark.parametrize("most", [1, 20, 150])
def test_keeping_the_most_alike_changes_no_rate(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(all_pairs, "_BLOCK", 25)
    rows, people = faces(seed=3)
    genuine, impostors = genuine_pairs(rows, people), impostor_pairs(rows, people, highest=1.0)
    assert len(impostors.scores) == impostors.pairs
    few = impostor_pairs(rows, people, most=most)
    np.testing.assert_array_equal(few.scores, impostors.scores[: len(few.scores)])
    assert 0 < len(few.scores) <= most
    fars = [1.0, 0.3, 0.1, 0.03, 0.01, 0.003]
    rates = true_accept_rates(genuine, impostors, fars)
    np.testing.assert_array_equal(true_accept_rates(genuine, few, fars), rates)
    assert rates[0] == 1


def test_of_people_drawn_a_threshold_beyond_the_kept_pairs_is_that_of_all() -> None:
    rows, people = faces(seed=3)
    genuine, few = genuine_pairs(rows, people), impostor_pairs(rows, people, most=30)
    times = np.random.default_rng(2).multinomial(genuine.count, np.ones(genuine.count) / genuine.count)
    drawn = times.astype(float)
    low, high = true_accept_rates(genuine, few, [0.005, 0.3], (drawn, drawn))
    assert low == pytest.approx(slow_tar(every_pair(rows, people), 0.005, drawn))
    passed = genuine.scores > few.threshold(0.3)
    assert high == pytest.approx(drawn[genuine.people[passed]].sum() / drawn[genuine.people].sum())


@pytest.mark.parametrize("block", [25, 2048])
def test_pairs_left_out_are_not_there(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(all_pairs, "_BLOCK", block)
    rows, people = faces(seed=4)
    whole = impostor_pairs(rows, people, highest=1.0)
    apart = alike_pairs(rows, 0.6)
    kept = impostor_pairs(rows, people, apart, highest=1.0)
    np.testing.assert_array_equal(kept.scores, whole.scores[whole.scores <= 0.6])
    assert 0 < kept.pairs < whole.pairs
    times = np.arange(float(len(kept.per_person)))
    assert kept.total(times) == times[kept.people].prod(axis=1).sum()


def test_a_rate_is_shown_where_enough_impostors_lie_above() -> None:
    assert [shown(far, 3000, 30) for far in (0.00999, 0.01, 0.5)] == [False, True, True]
    assert [shown(far, 3000) for far in (0.99 / 3000, 1 / 3000)] == [False, True]


def test_scores_that_tie_are_not_told_apart() -> None:
    rows = unit_rows(np.repeat([[1.0, 0.0], [0.0, 1.0]], 3, axis=0))
    people = np.array([0, 0, 1, 2, 2, 1])
    genuine, impostors = genuine_pairs(rows, people), impostor_pairs(rows, people)
    # 4 impostor pairs of 12 have similarity 1, as 2 of the 3 genuine ones: below a rate of 4 / 12 none is accepted.
    assert true_accept_rates(genuine, impostors, [0.3, 0.34]).tolist() == [0, pytest.approx(2 / 3)]


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_an_embedding_without_direction_is_named(bad: float) -> None:
    rows = np.ones((5, 3))
    rows[3] = bad
    with pytest.raises(InputError, match=r"image 3 is zero or not finite \(1 of 5"):
        unit_rows(rows)


def test_one_person_has_no_impostors() -> None:
    with pytest.raises(InputError, match="two people"):
        impostor_pairs(unit_rows(np.eye(3)), np.zeros(3, np.int64))


def test_everybody_drawn_once_gives_what_there_is() -> None:
    rows, people = faces()
    genuine, impostors = genuine_pairs(rows, people), impostor_pairs(rows, people, highest=0.5)
    once = np.ones(genuine.count)
    fars = [count / impostors.pairs for count in range(1, 300)]  # each ends at a pair
    drawn = true_accept_rates(genuine, impostors, fars, (once, once))
    np.testing.assert_array_equal(drawn, true_accept_rates(genuine, impostors, fars))
