from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recipes.faces import d_prime, kfold_accuracy, tar_at_far
from recipes.faces.judging import bootstrap
from recipes.faces.judging.bootstrap import interval, probability_of_chance, resampled_means, resampled_pairs
from recipes.faces.judging.drawn_pairs import SortedPairs
from recipes.faces.judging.protocols import fold_numbers, tar_at_fars

# Few distinct values, so that ties are common and some are in one fold only; values all apart; and of one kind or all,
# values that are equal, but whose mean is not exactly theirs.
SCORES = st.one_of(st.integers(-3, 3).map(lambda n: n / 7), st.floats(-1, 1).map(lambda x: round(x, 6)))
ROWS = st.one_of(
    st.lists(st.tuples(scores, st.booleans(), st.integers(0, 2)), min_size=2, max_size=25)
    for scores in (SCORES, st.just(0.1))
).filter(lambda rows: len({y for _, y, _ in rows}) == 2 and len({f for *_, f in rows}) > 1)


@settings(deadline=None)
@given(ROWS, st.booleans(), st.integers(0, 2**32))
@example([(n / 10, i < 3, int(i < 3)) for i, n in enumerate([0, 1, 8, 4, 2, 0])], True, 0)
def test_each_set_is_judged_by_the_protocols(
    rows: list[tuple[float, bool, int]], given: bool, seed: int
) -> None:
    """The figures of a drawn set are those of its pairs written out, each as often as it was drawn."""
    scores, same, folds = (np.array(column) for column in zip(*rows, strict=True))
    fold = fold_numbers(same, folds if given else 2)
    fars = [1e-6, 1 / (~same).sum(), 0.3, 1.0]
    drawn = np.concatenate(list(bootstrap._draw(fold * 2 + same, 5, np.random.default_rng(seed))))
    times = np.concatenate([drawn, lone(fold * 2 + same)])
    figures = SortedPairs(scores, same, fold, fars).figures(times)
    both = resampled_pairs([scores, scores], same, fold, fars, 5, seed)
    np.testing.assert_array_equal(both, [figures[:5]] * 2)
    for found, repeats in zip(figures, times, strict=True):
        pairs = np.repeat(np.arange(len(repeats)), repeats)
        written = scores[pairs], same[pairs]
        assert np.array_equal(np.bincount(fold[pairs] * 2 + same[pairs]), np.bincount(fold * 2 + same))
        accuracy, tars = kfold_accuracy(*written, fold[pairs])[0], tar_at_fars(*written, fars)
        np.testing.assert_allclose(found, [accuracy, *tars, d_prime(*written)], rtol=1e-12, atol=1e-12)


def lone(strata: np.ndarray) -> np.ndarray:
    """Two sets of which each stratum holds but one pair, its first or its last, as often as it has pairs."""
    times = np.zeros((2, len(strata)), np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        times[[0, 1], members[[0, -1]]] = len(members)
    return times


def normal(count: int, distance: float) -> tuple[np.ndarray, np.ndarray]:
    same = np.tile(np.repeat([True, False], count // 20), 10)
    return np.random.default_rng(3).normal(same * distance), same


def intervals(
    scores: np.ndarray, same: np.ndarray, folds: int, far: float, count: int, seed: int = 0
) -> list:
    return [interval(c) for c in resampled_pairs([scores], same, folds, [far], count, seed)[0].T]


def test_interval_of_an_accuracy_is_that_of_a_proportion() -> None:
    scores, same = normal(2000, 2.0)
    accuracy = kfold_accuracy(scores, same)[0]
    (low, high), tar, separation = intervals(scores, same, 10, 1e-2, 400)
    wide = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 2000)
    assert low < accuracy < high
    assert high - low == pytest.approx(2 * wide, rel=0.25)
    assert tar[0] < tar_at_far(scores, same, 1e-2) < tar[1]
    assert separation[0] < d_prime(scores, same) < separation[1]
    assert np.isnan(resampled_pairs([scores], same, 10, [1e-4], 2)[0][:, 1]).all()


def test_seed_decides_and_how_many_are_drawn_at_once_hardly_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, same = normal(200, 1.5)
    ask = lambda seed: intervals(scores, same, 5, 1e-1, 50, seed)  # noqa: E731
    assert ask(0) == ask(0)
    assert ask(0) != ask(1)
    once = ask(0)
    monkeypatch.setattr(bootstrap, "_BLOCK", 1)
    assert ask(0) == once
    monkeypatch.setattr(bootstrap, "_CELLS", 1)
    assert ask(0)[0] == pytest.approx(ask(1)[0], abs=0.05)


def test_memory_does_not_grow_with_the_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, same = normal(400, 1.5)
    monkeypatch.setattr(bootstrap, "_CELLS", 1 << 15)
    monkeypatch.setattr(bootstrap, "_BLOCK", 1 << 14)
    tracemalloc.start()
    resampled_pairs([scores, scores], same, 10, [1e-1], 3000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6 < 3000 * 400 * 4


def test_level_widens() -> None:
    drawn = np.random.default_rng(0).normal(size=1000)
    narrow, wide = interval(drawn, 0.5), interval(drawn, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_separable_scores_have_no_spread() -> None:
    same = np.arange(40) % 2 == 0
    accuracy, tar = intervals(same * 1.0 + np.arange(40) / 1e3, same, 4, 1e-1, 20)[:2]
    assert accuracy == (1.0, 1.0)
    assert tar == (1.0, 1.0)


def test_models_are_judged_on_the_same_sets() -> None:
    scores, same = normal(200, 1.5)
    first, second = resampled_pairs([scores, 2 * scores + 1], same, 5, [1e-1], 20)
    np.testing.assert_allclose(first, second)


def test_means_of_groups_spread_as_their_means_do() -> None:
    """Ten equal values in each group tell as much as one of them."""
    values = np.random.default_rng(0).normal(size=(200, 1))
    alone = resampled_means(values, None, 400)
    grouped = resampled_means(np.repeat(values, 10, axis=0), np.repeat(np.arange(200), 10), 400)
    np.testing.assert_allclose(grouped, alone)
    assert alone.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.15)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.5, 1.0), (5.0, 0.0, 0.01), (-5.0, 0.0, 0.01)])
def test_probability_of_chance(shift: float, low: float, high: float) -> None:
    drawn = np.random.default_rng(0).normal(size=999) + shift
    assert low < probability_of_chance(drawn) <= high
    assert probability_of_chance(np.zeros(9)) == 1.0
