"""What one model did on a set of pairs: the accuracy of LFW and TAR at FAR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recipes.faces.judging.bootstrap import Interval, interval, resampled_pairs
from recipes.faces.judging.protocols import (
    d_prime,
    kfold_accuracy,
    tar_at_fars,
)
from recipes.faces.judging.verdict import Figure, Verdict

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
ACCURACY, SEPARATION = "accuracy", "d'"


def tar_name(far: float) -> str:
    """Return what the true accept rate at a false accept rate is called, everywhere."""
    return f"TAR at FAR {far:g}"


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(Verdict):
    """What one model did on one verification set, and how it was asked.

    Attributes:
        pairs: number of pairs; ``genuine`` and ``impostors`` are their parts.
        embedding_size: D.
        input: name of the input preset.
        flip: whether the embedding of the mirrored image was added.
        fars: the false accept rates of its figures.
        folds: number of folds of the accuracy.
        folds_by_kind: whether both kinds were dealt out to the folds, because consecutive ones would lack one of them.
        accuracy_std: standard deviation of the accuracy over the folds.
        threshold: mean of the folds' thresholds, a cosine similarity.
    """

    pairs: int
    genuine: int
    impostors: int
    embedding_size: int
    input: str
    flip: bool
    fars: tuple[float, ...]
    folds: int
    accuracy_std: float
    threshold: float
    folds_by_kind: bool = False

    @property
    def accuracy(self) -> float:
        """Mean over the folds, ``0..1``."""
        return float(self[ACCURACY].value)  # type: ignore[arg-type]

    @property
    def tar_at_far(self) -> dict[float, float | None]:
        """True accept rate by false accept rate; None where the set has too few impostors to measure it."""
        return {far: self[tar_name(far)].value for far in self.fars}

    @property
    def d_prime(self) -> float | None:
        """:func:`recipes.faces.d_prime` of the scores; None where it is not finite."""
        return self[SEPARATION].value

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """Cosine similarity of each pair, float64 ``[pairs]``."""
        return self.outcomes["scores"]

    @property
    def same(self) -> npt.NDArray[np.bool_]:
        """Whether each pair shows one person, bool ``[pairs]``: with ``scores`` what ``recipes.faces.roc`` takes."""
        return self.outcomes["same"]

    @property
    def separation(self) -> Figure:
        """d': it uses every score, where accuracy and TAR see the few near a threshold."""
        return self[SEPARATION]

    def rank(self) -> tuple[float, ...]:
        """Compare as tuples: what decides, then the accuracy, the TARs from the lowest FAR up, and d'.

        On a set where accuracy and rates are at their ceiling, d' alone still tells.
        """
        names = (self.decides, ACCURACY, *map(tar_name, sorted(self.fars)), SEPARATION)
        return tuple(self[name].goodness for name in names)

    def at_chance(self) -> bool:
        """Return whether guessing could give the accuracy, and the scores hardly part the two kinds."""
        share = max(self.genuine, self.impostors) / self.pairs
        return self.accuracy <= guess(share, self.pairs) and self.separation.goodness < 1

    def notes(self) -> dict[str, str]:
        """Input, size of the embedding, folds and threshold."""
        dealt = ", dealt by kind" if self.folds_by_kind else ""
        return {
            "input": f"{self.input}, {'with' if self.flip else 'without'} flip",
            "embedding": str(self.embedding_size),
            "standard deviation": f"{self.accuracy_std:.2%} over {self.folds} folds{dealt}",
            "threshold": f"cosine {self.threshold:.4f}, mean of the folds",
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, without scores and truths; false accept rates are keys such as ``"0.001"``."""
        return {
            **super().to_json(),
            "pairs": self.pairs,
            "genuine": self.genuine,
            "impostors": self.impostors,
            "embedding_size": self.embedding_size,
            "input": self.input,
            "flip": self.flip,
            "folds": self.folds,
            "folds_by_kind": self.folds_by_kind,
            "accuracy": self.accuracy,
            "accuracy_std": self.accuracy_std,
            "threshold": self.threshold,
            "tar_at_far": {f"{far:g}": tar for far, tar in self.tar_at_far.items()},
            "d_prime": self.d_prime,
        }


def guess(share: float, examples: int) -> float:
    """Return what guessing right with probability ``share`` gives at most, three standard errors above its mean."""
    return share + 3 * math.sqrt(share * (1 - share) / examples)


def judge_scores(
    scores: npt.NDArray[np.float64],
    same: npt.NDArray[np.bool_],
    folds: npt.NDArray[np.int64],
    fars: Sequence[float],
    embedding_size: int,
    input: str,
    flip: bool,
    bootstrap: int,
    decides: str = ACCURACY,
) -> Evaluation:
    """Return the figures of scores that are there already.

    Args:
        scores: ``[N]``.
        same: bool ``[N]``.
        folds: the fold of each pair, ``[N]``.
        fars: false accept rates of ``tar_at_far``.
        embedding_size, input, flip: as :class:`Evaluation`.
        bootstrap, decides: as :class:`PairsJudge`.

    Raises:
        InputError: a score is not finite.
    """
    accuracy, accuracy_std, thresholds = kfold_accuracy(scores, same, folds)
    tars = tar_at_fars(scores, same, fars)
    values = [accuracy, *tars, d_prime(scores, same)]
    ends: list[Interval | None] = [None] * len(values)
    if bootstrap:
        drawn = resampled_pairs([scores], same, folds, fars, bootstrap)[0]
        ends = [interval(column) if np.isfinite(column).all() else None for column in drawn.T]
    names = [ACCURACY, *map(tar_name, fars), SEPARATION]
    rare = [f"not measurable: needs {round(1 / far):,} impostor pairs" for far in fars]
    figures = tuple(
        Figure(
            name,
            value if math.isfinite(value) else None,
            interval=end,
            share=name != SEPARATION,
            missing=missing,
        )
        for name, value, end, missing in zip(names, values, ends, ["", *rare, "not finite"], strict=True)
    )
    genuine = int(same.sum())
    return Evaluation(
        figures=figures,
        decides=decides,
        outcomes={"scores": scores, "same": same, "folds": folds},
        subject=f"{genuine} genuine and {len(same) - genuine} impostor pairs",
        pairs=len(same),
        genuine=genuine,
        impostors=len(same) - genuine,
        embedding_size=embedding_size,
        input=input,
        flip=flip,
        fars=tuple(fars),
        folds=len(thresholds),
        accuracy_std=accuracy_std,
        threshold=float(thresholds.mean()),
    )
