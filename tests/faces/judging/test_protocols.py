from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.faces import d_prime, kfold_accuracy, roc, similarity, tar_at_far
from recipes.faces.judging.protocols import fold_numbers
from reparam_kit import InputError

# Few distinct values, so that ties are common.
SCORES = st.lists(
    st.tuples(st.one_of(st.integers(-3, 3).map(float), st.floats(-1, 1)), st.booleans()),
    min_size=4,
    max_size=25,
)


def split(rows: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([s for s, _ in rows]), np.array([y for _, y in rows])


def decisions(scores: np.ndarray) -> list[np.ndarray]:
    """Every way a threshold can call the pairs, from none same to all same."""
    return [np.zeros(len(scores), bool), *(scores >= value for value in np.unique(scores)[::-1])]


@given(SCORES, st.integers(2, 4))
def test_kfold_by_definition(rows: list[tuple[float, bool]], folds: int) -> None:
    scores, same = split(rows)
    mean, std, thresholds = kfold_accuracy(scores, same, folds)
    accuracies = []
    for i in range(folds):
        fold = fold_numbers(same, folds) == i
        reached = np.mean((scores[~fold] >= thresholds[i]) == same[~fold])
        best = max(np.mean(called == same[~fold]) for called in decisions(scores[~fold]))
        assert reached == best
        for higher in np.unique(scores[~fold]):
            if higher > thresholds[i]:
                assert np.mean((scores[~fold] >= np.nextafter(higher, np.inf)) == same[~fold]) < best
        accuracies.append(np.mean((scores[fold] >= thresholds[i]) == same[fold]))
    assert mean == pytest.approx(np.mean(accuracies))
    assert std == pytest.approx(np.std(accuracies))


def test_thresholds_are_midpoints() -> None:
    scores, same = np.array([0.0, 1.0, 0.0, 1.0]), np.array([False, True, False, True])
    assert kfold_accuracy(scores, same, 2) == (1.0, 0.0, pytest.approx([0.5, 0.5]))


def test_threshold_between_neighbouring_floats() -> None:
    high = np.nextafter(1.0, 2)
    _, _, thresholds = kfold_accuracy([1.0, high, 1.0, high], [False, True, False, True], 2)
    assert thresholds.tolist() == [high, high]


def test_folds_are_consecutive() -> None:
    # The first half can only be called all different, which is right for half of the second; the second half's
    # threshold is wrong for all of the first.
    mean, std, _ = kfold_accuracy(
        [0, 0, 1, 1, 0, 0, 1, 1], [True, True, False, False, False, False, True, True], 2
    )
    assert (mean, std) == (0.25, 0.25)


@given(SCORES, st.permutations(range(25)))
def test_folds_of_a_set_by_its_makers(rows: list[tuple[float, bool]], order: list[int]) -> None:
    """Numbers of folds in any order and of any value are the folds of the same pairs sorted by them."""
    scores, same = split(rows)
    numbers = 7 - 3 * np.array([order[i] % 2 for i in range(len(scores))])
    if len(set(numbers.tolist())) < 2:
        numbers[0] = 99
    by_fold = np.argsort(numbers, kind="stable")
    mean, std, thresholds = kfold_accuracy(scores, same, numbers)
    sorted_mean, sorted_std, sorted_thresholds = kfold_accuracy(
        scores[by_fold], same[by_fold], numbers[by_fold]
    )
    assert (mean, std) == (sorted_mean, sorted_std)
    assert thresholds.tolist() == sorted_thresholds.tolist()


def test_numbers_that_cut_evenly_are_the_consecutive_folds() -> None:
    scores = np.random.default_rng(0).normal(size=23)
    same = np.arange(23) % 2 == 0
    numbers = np.repeat([5, 2, 9], [8, 8, 7])
    mean, std, thresholds = kfold_accuracy(scores, same, 3)
    again = kfold_accuracy(scores, same, numbers)
    assert (mean, std) == (pytest.approx(again[0]), pytest.approx(again[1]))
    assert thresholds[[1, 0, 2]].tolist() == again[2].tolist()


@pytest.mark.parametrize("folds", [[1, 1, 1], [1, 2], [[1, 2, 1]]])
def test_numbers_must_cut_the_pairs(folds: list[int]) -> None:
    with pytest.raises(InputError, match="folds do not cut 3 pairs"):
        kfold_accuracy([0.1, 0.2, 0.3], [True, False, True], folds)


def test_d_prime_of_two_normal_distributions() -> None:
    random = np.random.default_rng(0)
    scores = np.concatenate([random.normal(3, 1, 40_000), random.normal(0, 2, 40_000)])
    same = np.arange(80_000) < 40_000
    assert d_prime(scores, same) == pytest.approx(3 / np.sqrt(2.5), rel=0.02)
    assert d_prime(5 * scores + 7, same) == pytest.approx(d_prime(scores, same))
    assert d_prime(scores, ~same) == pytest.approx(-d_prime(scores, same))


def test_d_prime_without_spread_is_not_finite() -> None:
    assert np.isinf(d_prime([1, 1, 0], [True, True, False]))
    assert np.isnan(d_prime([0, 0, 0], [True, True, False]))
    # The mean of three times 0.1 is not exactly 0.1.
    assert np.isinf(d_prime([0.3] * 3 + [0.1] * 3, [True] * 3 + [False] * 3))
    assert np.isnan(d_prime([0.1] * 6, [True] * 3 + [False] * 3))


@given(SCORES.filter(lambda rows: len({y for _, y in rows}) == 2))
def test_roc_by_definition(rows: list[tuple[float, bool]]) -> None:
    scores, same = split(rows)
    far, tar, thresholds = roc(scores, same)
    wanted = decisions(scores)
    assert len(far) == len(tar) == len(thresholds) == len(wanted)
    assert (np.diff(thresholds) < 0).all()
    for i, called in enumerate(wanted):
        assert ((scores >= thresholds[i]) == called).all()
        assert far[i] == called[~same].mean()
        assert tar[i] == called[same].mean()


@given(SCORES.filter(lambda rows: len({y for _, y in rows}) == 2), st.integers(1, 25), st.integers(1, 25))
def test_tar_at_far_by_definition(rows: list[tuple[float, bool]], part: int, whole: int) -> None:
    scores, same = split(rows)
    part = min(part, whole)
    measured = tar_at_far(scores, same, part / whole)
    if part * (~same).sum() < whole:
        assert np.isnan(measured)
    else:
        allowed = [d for d in decisions(scores) if d[~same].sum() * whole <= part * (~same).sum()]
        assert measured == max(d[same].mean() for d in allowed)


def test_tied_impostors_are_accepted_together_or_not() -> None:
    scores = [0.9, 0.5, 0.5, 0.5, 0.1]
    same = [True, True, False, False, False]
    assert tar_at_far(scores, same, 0.34) == 0.5
    assert tar_at_far(scores, same, 0.67) == 1.0


def test_share_that_is_a_whole_number_but_for_rounding() -> None:
    assert 0.29 * 100 < 29
    scores = np.append(np.arange(100.0), 71.0)  # 29 impostors reach the genuine pair's score
    assert tar_at_far(scores, np.arange(101) == 100, 0.29) == 1.0


@pytest.mark.parametrize(("impostors", "measurable"), [(999, False), (1000, True)])
def test_far_below_one_impostor_is_not_measurable(impostors: int, measurable: bool) -> None:
    scores = np.append(np.linspace(0, 0.5, impostors), 0.9)
    same = np.append(np.zeros(impostors, bool), True)
    assert np.isnan(tar_at_far(scores, same, 1e-3)) == (not measurable)


def test_similarity_is_the_cosine() -> None:
    a, b = np.array([[3.0, 0.0], [1.0, 1.0], [2.0, 0.0]]), np.array([[5.0, 0.0], [0.0, 7.0], [-1.0, 0.0]])
    assert similarity(a, b) == pytest.approx([1, 0.5**0.5, -1])


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_embedding_without_direction(bad: float) -> None:
    with pytest.raises(InputError, match="pair 1 has an embedding that is zero or not finite"):
        similarity([[1.0, 1.0], [bad, bad]], np.ones((2, 2)))


@pytest.mark.parametrize("judge", [kfold_accuracy, roc, lambda s, y: tar_at_far(s, y, 0.5)])
@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([0.0, np.nan] * 5, [True, False] * 5, "score of pair 1 is nan"),
        ([0.0, 1.0], [True], "one number a pair"),
    ],
)
def test_unusable_scores(judge, scores: list[float], same: list[bool], message: str) -> None:
    with pytest.raises(InputError, match=message):
        judge(scores, same)


@pytest.mark.parametrize("same", [[True] * 3, [False] * 3])
def test_rates_need_both_kinds(same: list[bool]) -> None:
    for judge in (roc, d_prime, lambda s, y: tar_at_far(s, y, 0.5)):
        with pytest.raises(InputError, match="genuine and impostor"):
            judge([0.1, 0.2, 0.3], same)


@pytest.mark.parametrize("folds", [0, 1, 4])
def test_folds_must_fit(folds: int) -> None:
    with pytest.raises(InputError, match=f"3 pairs cannot be cut into {folds} folds"):
        kfold_accuracy([0.1, 0.2, 0.3], [True, False, True], folds)


ORDERS = {
    "genuine first": lambda same: np.argsort(~same, kind="stable"),
    "impostors first": lambda same: np.argsort(same, kind="stable"),
    "runs of sixty": lambda same: np.concatenate(
        [np.argsort(~same[i : i + 60]) + i for i in range(0, 600, 60)]
    ),
    "shuffled": lambda same: np.random.default_rng(0).permutation(len(same)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("genuine", [300, 200, 10, 590])
@pytest.mark.parametrize("folds", [2, 7, 10])
def test_every_fold_has_both_kinds_in_whatever_order(order: str, genuine: int, folds: int) -> None:
    same = np.arange(600) % 600 < genuine
    same = same[ORDERS[order](same)]
    numbers = fold_numbers(same, folds)
    for fold in range(folds):
        assert 0 < same[numbers == fold].sum() < (numbers == fold).sum()
    sizes = np.bincount(numbers)
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("order", ORDERS)
def test_scores_that_say_nothing_are_not_below_chance(order: str) -> None:
    same = np.arange(600) % 2 == 0
    same = same[ORDERS[order](same)]
    scores = np.random.default_rng(1).normal(size=600)
    assert kfold_accuracy(scores, same, 10)[0] > 0.45


def test_a_set_in_the_order_of_lfw_is_cut_as_it_always_was() -> None:
    same = np.tile(np.repeat([True, False], 300), 10)
    assert np.array_equal(fold_numbers(same, 10), np.repeat(np.arange(10), 600))


@pytest.mark.parametrize("same", [[True, False], [True] * 5 + [False], [True] * 4, [True] + [False] * 30])
def test_no_fold_is_empty_where_a_kind_is_rare(same: list[bool]) -> None:
    numbers = fold_numbers(same, 2)
    assert set(numbers.tolist()) == {0, 1}
