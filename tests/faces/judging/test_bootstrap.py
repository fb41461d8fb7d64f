from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.faces import kfold_accuracy, tar_at_far
from recipes.faces.judging import bootstrap
from recipes.faces.judging.bootstrap import bootstrap_intervals

# Few distinct values, so that ties are common and some are in one fold only.
ROWS = st.lists(
    st.tuples(st.integers(-3, 3).map(float), st.booleans(), st.integers(0, 2)), min_size=8, max_size=25
).filter(lambda rows: len({y for _, y, _ in rows}) == 2 and len({f for *_, f in rows}) > 1)


@settings(deadline=None)
@given(ROWS)
def test_each_set_is_judged_by_the_protocols(rows: list[tuple[float, bool, int]]) -> None:
    """The figures of a drawn set are those of its pairs written out, each as often as it was drawn."""
    scores, same, folds = (np.array(column) for column in zip(*rows, strict=True))
    order = np.argsort(-scores, kind="stable")
    falling, kinds = scores[order], same[order]
    fold = np.unique(folds, return_inverse=True)[1][order]
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    pairs = bootstrap._Pairs(kinds, fold, falling[last], last)
    times = np.concatenate(list(bootstrap._draw(pairs, 5, np.random.default_rng(0))))
    accuracies = bootstrap._accuracy(times, pairs)
    tars = bootstrap._tar(times, pairs, 1)
    for i, row in enumerate(times):
        drawn = np.repeat(np.arange(len(row)), row)
        assert np.array_equal(np.bincount(fold[drawn] * 2 + kinds[drawn]), np.bincount(fold * 2 + kinds))
        wanted = kfold_accuracy(falling[drawn], kinds[drawn], fold[drawn])[0]
        assert accuracies[i] == pytest.approx(wanted)
        assert tars[i] == tar_at_far(falling[drawn], kinds[drawn], 1 / (~kinds).sum())


def normal(count: int, distance: float) -> tuple[np.ndarray, np.ndarray]:
    same = np.tile(np.repeat([True, False], count // 20), 10)
    return np.random.default_rng(3).normal(same * distance), same


def test_interval_of_an_accuracy_is_that_of_a_proportion() -> None:
    scores, same = normal(2000, 2.0)
    accuracy = kfold_accuracy(scores, same)[0]
    (low, high), tars = bootstrap_intervals(scores, same, 10, (1e-1, 1e-2, 1e-4), 400)
    wide = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 2000)
    assert low < accuracy < high
    assert high - low == pytest.approx(2 * wide, rel=0.25)
    assert tars[1e-4] is None
    for far in (1e-1, 1e-2):
        ends = tars[far]
        assert ends is not None
        assert ends[0] < tar_at_far(scores, same, far) < ends[1]


def test_seed_decides_and_the_chunks_hardly_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, same = normal(200, 1.5)
    ask = lambda seed: bootstrap_intervals(scores, same, 5, (1e-1,), 50, seed=seed)  # noqa: E731
    assert ask(0) == ask(0)
    assert ask(0) != ask(1)
    assert ask(0)[0][0] < ask(0)[0][1]
    monkeypatch.setattr(bootstrap, "_CELLS", 1)
    one_by_one = ask(0)
    assert one_by_one[0] == pytest.approx(ask(1)[0], abs=0.05)


def test_level_widens() -> None:
    scores, same = normal(200, 1.5)
    narrow = bootstrap_intervals(scores, same, 5, (), 200, level=0.5)[0]
    wide = bootstrap_intervals(scores, same, 5, (), 200, level=0.99)[0]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_separable_scores_have_no_spread() -> None:
    same = np.arange(40) % 2 == 0
    accuracy, tars = bootstrap_intervals(same * 1.0, same, 4, (1e-1,), 20)
    assert accuracy == (1.0, 1.0)
    assert tars == {1e-1: (1.0, 1.0)}
