"""Face verification protocols, in numpy.

A pair has a score, higher for more alike, and is called *same* where ``score >= threshold``. Pairs of equal score are
called alike, whatever the threshold: every figure here is over what a threshold can do, counted exactly.

Sources: G. B. Huang, M. Ramesh, T. Berg, E. Learned-Miller, "Labeled Faces in the Wild", UMass Amherst TR 07-49, 2007
(View 2: ten folds, no shuffling, the threshold from nine and the accuracy on the tenth); InsightFace's
``verification.py`` (the same over a grid of thresholds, in whose place stand all those that decide differently here).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reparam_kit import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def similarity(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Return the cosine similarity of embeddings, row by row: ``[N, D]`` and ``[N, D]`` to float64 ``[N]``.

    Raises:
        InputError: an embedding is zero or not finite: it has no direction.

    >>> similarity([[1.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [1.0, -1.0]]).tolist()
    [1.0, 0.0]
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise InputError(
            f"pair {bad[0]} has an embedding that is zero or not finite ({len(bad)} of {len(norms)} pairs do)"
        )
    cosine: Floats = np.einsum("nd,nd->n", a, b) / norms
    return cosine


def fold_numbers(same: npt.ArrayLike, folds: int | npt.ArrayLike) -> Ints:
    """Return the fold ``0 .. F - 1`` of each of N pairs, int64 ``[N]``.

    Args:
        same: bool ``[N]``.
        folds: how many consecutive folds, not shuffled, of which the first ``N mod folds`` have one pair more; or the
            number of each pair's fold, as a set's makers give it. Where a consecutive fold would lack genuine or
            impostor pairs, as in a set that is ordered by kind, both kinds are dealt out evenly, in their order: a
            threshold from folds of the other kind would be the worst there is.

    Raises:
        InputError: there are fewer than two folds, more than pairs, or not one number for each pair.
    """
    given, same = np.asarray(folds), np.asarray(same, np.bool_)
    count = len(same)
    if given.ndim == 0:
        number = int(given)
        if not 2 <= number <= count:
            raise InputError(f"{count} pairs cannot be cut into {number} folds")
        parts = [len(part) for part in np.array_split(np.arange(count), number)]
        numbers = np.repeat(np.arange(number), parts)
        has = np.zeros((number, 2), np.bool_)
        has[numbers, same.astype(int)] = True
        return numbers if has.all() else _dealt(same, numbers)
    known, numbers = np.unique(given, return_inverse=True)
    if given.shape != (count,) or len(known) < 2:
        raise InputError(f"{len(given)} numbers of {len(known)} folds do not cut {count} pairs into folds")
    return numbers


def _dealt(same: npt.NDArray[np.bool_], numbers: Ints) -> Ints:
    """Return ``numbers`` for the pairs in the order of how many of their kind stand before them, as a share of the
    kind.
    """
    rank = np.where(same, np.cumsum(same), np.cumsum(~same)) - 0.5
    share = rank / np.where(same, same.sum(), (~same).sum())
    dealt = np.empty_like(numbers)
    dealt[np.argsort(share, kind="stable")] = numbers
    return dealt


def kfold_accuracy(
    scores: npt.ArrayLike, same: npt.ArrayLike, folds: int | npt.ArrayLike = 10
) -> tuple[float, float, Floats]:
    """Apply LFW View 2: for each fold, the threshold that is most accurate on the others, judged on the fold.

    The folds are not shuffled, as the sets' makers intend: a set's folds share no person; a set that is ordered by kind
    is dealt out (:func:`fold_numbers`). The candidates are the
    midpoints between neighbouring distinct scores of the other folds, and one threshold on either side of them all.
    Among equally accurate ones the highest is taken (InsightFace's choice: its first among ascending distances).

    Args:
        scores: ``[N]``.
        same: bool ``[N]``.
        folds: as :func:`fold_numbers`.

    Returns:
        Mean of the folds' accuracies, their standard deviation (over ``folds``, not ``folds - 1``; the LFW paper's
        standard error is this divided by ``sqrt(folds - 1)``), and the thresholds float64 ``[folds]``.

    Raises:
        InputError: a score is not finite, or ``folds`` does not cut the pairs.

    >>> accuracy, std, threshold = kfold_accuracy([0.9, 0.1, 0.8, 0.2], [True, False, True, False], folds=2)
    >>> accuracy, std
    (1.0, 0.0)
    """
    scores, same = _checked(scores, same)
    order = _falling(scores)
    fold = fold_numbers(same, folds)[order]
    scores, same = scores[order], same[order]
    accuracies = np.empty(int(fold.max()) + 1)
    thresholds = np.empty(len(accuracies))
    for i in range(len(accuracies)):
        inside = fold == i
        genuine, impostors, candidates = _sweep(scores[~inside], same[~inside])
        thresholds[i] = candidates[np.argmax(genuine - impostors)]
        accuracies[i] = ((scores[inside] >= thresholds[i]) == same[inside]).mean()
    return float(accuracies.mean()), float(accuracies.std()), thresholds


def d_prime(scores: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Return the separation of genuine and impostor scores: ``(mean - mean) / sqrt((variance + variance) / 2)``.

    It uses every score, where accuracy and TAR see only the few near a threshold, and so tells two models or inputs
    apart on a few hundred pairs. NaN or infinite where all scores of each kind are equal.

    Source: D. M. Green, J. A. Swets, "Signal Detection Theory and Psychophysics", 1966; J. Daugman, "Biometric decision
    landscapes", Cambridge TR 482, 2000.

    Raises:
        InputError: a score is not finite, or there is no genuine or no impostor pair.

    >>> round(d_prime([0.8, 0.6, 0.1, -0.1], [True, True, False, False]), 3)
    7.0
    """
    scores, same = _checked(scores, same)
    require_both_kinds(same)
    away: Floats = scores - scores.max()  # exact where all scores are close to one another
    genuine, impostors = _moments(away[same]), _moments(away[~same])
    with np.errstate(divide="ignore", invalid="ignore"):
        return float((genuine[0] - impostors[0]) / np.sqrt((genuine[1] + impostors[1]) / 2))


def _moments(scores: Floats) -> tuple[np.float64, np.float64]:
    """Mean and variance, by the distances from the highest score: equal scores have no variance at all."""
    highest = scores.max()
    away = scores - highest
    return highest + away.mean(), away.var()


def roc(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return false and true accept rates at every threshold that decides differently.

    Args:
        scores: ``[N]``, with K distinct values.
        same: bool ``[N]``.

    Returns:
        ``far``, ``tar`` and ``thresholds``, each float64 ``[K + 1]``: thresholds fall, from one that accepts no pair,
        at (0, 0), to one that accepts all, at (1, 1).

    Raises:
        InputError: a score is not finite, or there is no genuine or no impostor pair.

    >>> far, tar, thresholds = roc([0.9, 0.4, 0.1], [True, True, False])
    >>> tar.tolist()
    [0.0, 0.5, 1.0, 1.0]
    """
    genuine, impostors, thresholds = _both_kinds(scores, same)
    return impostors / impostors[-1], genuine / genuine[-1], thresholds


def tar_at_far(scores: npt.ArrayLike, same: npt.ArrayLike, far: float) -> float:
    """Return the highest true accept rate at a threshold that accepts at most the share ``far`` of the impostor pairs.

    A threshold cannot part equal scores: a score whose impostors do not all fit under ``far`` is not accepted, nor are
    the genuine pairs that share it. There is no interpolation between thresholds.

    NaN where ``far`` is below ``1 / impostors``: one false accept is already more, so the set cannot measure it.

    Args:
        scores: ``[N]``.
        same: bool ``[N]``.
        far: a share, ``0 < far <= 1``.

    Raises:
        InputError: a score is not finite, or there is no genuine or no impostor pair.

    >>> tar_at_far([0.9, 0.4, 0.6, 0.1], [True, True, False, False], far=0.5)
    1.0
    """
    return tar_at_fars(scores, same, [far])[0]


def tar_at_fars(scores: npt.ArrayLike, same: npt.ArrayLike, fars: Sequence[float]) -> list[float]:
    """Return :func:`tar_at_far` for each of ``fars``, sorting the scores once."""
    genuine, impostors, _ = _both_kinds(scores, same)
    tars = []
    for far in fars:
        allowed = accepts_allowed(far, int(impostors[-1]))
        last = int(np.searchsorted(impostors, allowed, "right")) - 1
        tars.append(float(genuine[last] / genuine[-1]) if allowed >= 1 else float("nan"))
    return tars


def accepts_allowed(far: float, impostors: int) -> int:
    """Return how many of ``impostors`` pairs may be accepted at a false accept rate of at most ``far``."""
    return int(np.floor(far * impostors + 1e-9))  # 0.29 * 100 is 28.999...


def _both_kinds(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Ints, Ints, Floats]:
    scores, same = _checked(scores, same)
    require_both_kinds(same)
    order = _falling(scores)
    return _sweep(scores[order], same[order])


def require_both_kinds(same: npt.NDArray[np.bool_]) -> None:
    """Error rates need pairs of both kinds.

    Raises:
        InputError: there is no genuine or no impostor pair.
    """
    if same.all() or not same.any():
        raise InputError(
            f"error rates need genuine and impostor pairs; of {len(same)} pairs {same.sum()} are genuine"
        )


def _checked(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Floats, npt.NDArray[np.bool_]]:
    scores, same = np.asarray(scores, np.float64), np.asarray(same, np.bool_)
    if scores.shape != same.shape or scores.ndim != 1:
        raise InputError(
            f"scores {list(scores.shape)} and truths {list(same.shape)} must be one number a pair"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise InputError(
            f"the score of pair {bad[0]} is {scores[bad[0]]} ({len(bad)} of {len(scores)} are not finite)"
        )
    return scores, same


def _falling(scores: Floats) -> Ints:
    return np.argsort(-scores, kind="stable")


def _sweep(falling: Floats, same: npt.NDArray[np.bool_]) -> tuple[Ints, Ints, Floats]:
    """Genuine and impostor pairs accepted at each threshold that decides differently, and the thresholds.

    The scores and the thresholds fall.
    """
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    genuine = np.append(0, np.cumsum(same)[last])
    impostors = np.append(0, last + 1) - genuine
    values = falling[last]
    first = np.nextafter(values[:1], np.inf)
    return genuine, impostors, np.concatenate([first, between(values[:-1], values[1:]), values[-1:]])


def between(high: Floats, low: Floats) -> Floats:
    """Return thresholds that accept the scores ``high`` and not the lower ones ``low``: the midpoints."""
    middle = low / 2 + high / 2
    return np.where(middle > low, middle, high)  # there is nothing between neighbouring floats
