"""Runs as a report has them, made of random scores."""

from __future__ import annotations

import numpy as np

from recipes.faces import Comparison, Evaluation, FoundInput, PairSet, PairsJudge
from recipes.faces.judging.evaluation import FARS, judge_scores
from recipes.faces.judging.protocols import fold_numbers
from recipes.tsmr import Arm, Stage, TSMRConfig, TSMRReport
from recipes.tsmr.results import EpochReport, Point

STAGES = (Stage(epochs=2, cosine=1.0), Stage(epochs=1, cosine=1.0, adversarial=0.1))


def judged(separation: float, pairs: int = 2200, seed: int = 0, input: str = "insightface") -> Evaluation:
    same = np.arange(pairs) % 2 == 0
    scores = np.random.default_rng(seed).normal(0, 0.12, pairs) + separation * 0.12 * same
    return judge_scores(scores, same, fold_numbers(same, 10), FARS, 8, input, False, 0)


def compared(before: Evaluation, after: Evaluation) -> Comparison:
    return PairsJudge(PairSet([b""] * 4, np.array([True, False]))).compare(before, after)


def arm(name: str, lr: float, *separations: float) -> Arm:
    return Arm(name, {1e-3: 0.7, 3e-3: None}, lr, 72, tuple(judged(s) for s in separations))


def made_report() -> TSMRReport:
    """Of a run of three epochs in two stages, the second kept."""
    validations = [judged(2.0), judged(2.4), judged(2.2)]
    losses = [{"cosine": 0.5 / step} | ({"adversarial": 0.7} if step > 4 else {}) for step in range(1, 7)]
    return TSMRReport(
        TSMRConfig(stages=STAGES, keep_gallery=1.0, lr=1e-3, seed=7),
        student="5" * 64,
        teachers=("7" * 64, "8" * 64),
        data="d" * 64,
        images=1234,
        epochs=tuple(
            EpochReport(n, 1 + n // 3, losses[2 * n - 1], 100.0, (e,))
            for n, e in enumerate(validations, start=1)
        ),
        curve=tuple(
            Point(step, 1 + step // 5, 1e-3, terms, {"adversarial/accuracy": 0.6} if step > 4 else {})
            for step, terms in enumerate(losses, start=1)
        ),
        inputs=FoundInput(
            {name: judged(s, 300, input=name) for name, s in (("insightface", 2.0), ("raw", 1.0))},
            chances={"raw": 0.001},
            left_out={},
        ),
        teacher_scores=(judged(3.0, 300), judged(2.9, 300)),
        before=(judged(1.8),),
        after=(validations[1],),
        comparisons=(compared(judged(1.8), validations[1]),),
        kept=2,
        gallery={"old-old": judged(1.8), "new-new": judged(2.4), "new-old": judged(2.1, 4400)},
        weight_change={"stem.weight": 0.031, "stem.bias": 0.0, "head.bias": 4e9, "head.weight": 0.27},
        ablation=(arm("distillation", 1e-3, 2.0, 2.2, 2.1), arm("TSMR", 3e-3, 2.4, 2.3, 2.2)),
    )
