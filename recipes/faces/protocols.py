"""Face verification protocols, in numpy.

A pair has a score, higher for more alike, and is called *same* where ``score >= threshold``. Pairs of equal score are
called alike, whatever the threshold: every figure here is over what a threshold can do, counted exactly.

Sources: G. B. Huang, M. Ramesh, T. Berg, E. Learned-Miller, "Labeled Faces in the Wild", UMass Amherst TR 07-49, 2007
(View 2: ten folds, no shuffling, the threshold from nine and the accuracy on the tenth); InsightFace's
``verification.py`` (the same over a grid of thresholds, in whose place stand all those that decide differently here).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from reparam_kit import InputError

Floats = npt.NDArray[np.float64]


def similarity(a: npt.ArrayLike, b: npt.ArrayLike) -> Floats:
    """Cosine similarity of embeddings, row by row: ``[N, D]`` and ``[N, D]`` to float64 ``[N]``.

    Raises:
        InputError: an embedding is zero or not finite: it has no direction.
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


def kfold_accuracy(
    scores: npt.ArrayLike, same: npt.ArrayLike, folds: int = 10
) -> tuple[float, float, Floats]:
    """LFW View 2: for each fold, the threshold that is most accurate on the others, judged on the fold.

    The folds are consecutive and not shuffled, and the first ``N mod folds`` have one pair more, as the sets' makers
    intend: a set's folds share no person. The candidates are the midpoints between neighbouring distinct scores of the
    other folds, and one threshold on either side of them all. Among equally accurate ones the highest is taken
    (InsightFace's choice: its first among ascending distances).

    Args:
        scores: ``[N]``.
        same: bool ``[N]``.
        folds: between 2 and N.

    Returns:
        Mean of the folds' accuracies, their standard deviation (over ``folds``, not ``folds - 1``; the LFW paper's
        standard error is this divided by ``sqrt(folds - 1)``), and the thresholds float64 ``[folds]``.

    Raises:
        InputError: a score is not finite, or ``folds`` is not between 2 and N.
    """
    scores, same = _checked(scores, same)
    if not 2 <= folds <= len(scores):
        raise InputError(f"{len(scores)} pairs cannot be cut into {folds} folds")
    accuracies = np.empty(folds)
    thresholds = np.empty(folds)
    for i, fold in enumerate(np.array_split(np.arange(len(scores)), folds)):
        rest = np.delete(np.arange(len(scores)), fold)
        genuine, impostors, candidates = _sweep(scores[rest], same[rest])
        thresholds[i] = candidates[np.argmax(genuine - impostors)]
        accuracies[i] = np.mean((scores[fold] >= thresholds[i]) == same[fold])
    return float(accuracies.mean()), float(accuracies.std()), thresholds


def roc(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
    """False and true accept rates at every threshold that decides differently.

    Args:
        scores: ``[N]``, with K distinct values.
        same: bool ``[N]``.

    Returns:
        ``far``, ``tar`` and ``thresholds``, each float64 ``[K + 1]``: thresholds fall, from one that accepts no pair,
        at (0, 0), to one that accepts all, at (1, 1).

    Raises:
        InputError: a score is not finite, or there is no genuine or no impostor pair.
    """
    genuine, impostors, thresholds = _both_kinds(scores, same)
    return impostors / impostors[-1], genuine / genuine[-1], thresholds


def tar_at_far(scores: npt.ArrayLike, same: npt.ArrayLike, far: float) -> float:
    """The highest true accept rate at a threshold that accepts at most the share ``far`` of the impostor pairs.

    A threshold cannot part equal scores: a score whose impostors do not all fit under ``far`` is not accepted, nor are
    the genuine pairs that share it. There is no interpolation between thresholds.

    NaN where ``far`` is below ``1 / impostors``: one false accept is already more, so the set cannot measure it.

    Args:
        scores: ``[N]``.
        same: bool ``[N]``.
        far: a share, ``0 < far <= 1``.

    Raises:
        InputError: a score is not finite, or there is no genuine or no impostor pair.
    """
    genuine, impostors, _ = _both_kinds(scores, same)
    allowed = np.floor(far * impostors[-1] + 1e-9)  # 0.29 * 100 is 28.999...
    if allowed < 1:
        return float("nan")
    return float(genuine[impostors <= allowed].max() / genuine[-1])


def _both_kinds(
    scores: npt.ArrayLike, same: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    scores, same = _checked(scores, same)
    if same.all() or not same.any():
        raise InputError(
            f"error rates need genuine and impostor pairs; of {len(same)} pairs {same.sum()} are genuine"
        )
    return _sweep(scores, same)


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


def _sweep(
    scores: Floats, same: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Genuine and impostor pairs accepted at each threshold that decides differently; thresholds fall."""
    values, group = np.unique(scores, return_inverse=True)
    genuine = np.bincount(group[same], minlength=len(values))[::-1]
    impostors = np.bincount(group[~same], minlength=len(values))[::-1]
    low, high = values[:-1], values[1:]
    middle = low / 2 + high / 2
    between = np.where(middle > low, middle, high)  # there is nothing between neighbouring floats
    thresholds = np.concatenate([[np.nextafter(values[-1], np.inf)], between[::-1], values[:1]])
    return np.append(0, genuine.cumsum()), np.append(0, impostors.cumsum()), thresholds
