"""Several models by several judges, each compared with another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from recipes.faces.embedding.inputs import InputPreset
from recipes.faces.judging.evaluation import Evaluation
from recipes.faces.judging.judge import Judge, Model
from recipes.faces.judging.pairs import PairsJudge
from recipes.faces.judging.plot import check_roc, save_roc
from recipes.faces.judging.verdict import Comparison, Verdict
from reparam_kit import InputError, suggestion


@dataclass(frozen=True)
class Candidate:
    """A model to judge, what it expects of its pixels, and which of its outputs is judged.

    >>> Candidate("deployed.onnx", "insightface").embedding is None
    True
    """

    model: Model
    input: str | InputPreset
    embedding: str | None = None


@dataclass(frozen=True)
class Judgements:
    """What came of ``judge_models``: for each judge the verdict on each model, and the comparisons, old before new."""

    verdicts: Mapping[str, Mapping[str, Verdict]]
    comparisons: Mapping[str, Mapping[tuple[str, str], Comparison]]

    def to_json(self) -> list[dict[str, Any]]:
        """Write every verdict as JSON has it, with its model, its set, and comparisons with older models."""
        return [
            {"model": model, "set": judge, **verdict.to_json(), **self._against(judge, model)}
            for judge, found in self.verdicts.items()
            for model, verdict in found.items()
        ]

    def _against(self, judge: str, model: str) -> dict[str, Any]:
        found = {old: one.to_json() for (old, new), one in self.comparisons[judge].items() if new == model}
        return {"against": found} if found else {}


def judge_models(
    candidates: Mapping[str, Candidate],
    judges: Mapping[str, Judge],
    *,
    against: str | None = None,
    roc: str | os.PathLike[str] | None = None,
) -> Judgements:
    """Judge every model by every judge, and compare models example by example.

    Args:
        candidates: the models by the names that tables show.
        judges: the judges by the names of what they judge on.
        against: the one of ``candidates`` that each other one is compared with. None: of two, the first is compared
            with the second, of more, none.
        roc: .svg or .png to draw the ROC curves in, of the first judge by pairs.

    Raises:
        InputError: a model or a set cannot be used, or ``roc`` cannot be drawn.

    ```python
    found = judge_models(
        {"old": Candidate("deployed.onnx", "raw"), "new": Candidate("better.onnx", "raw")},
        {"LFW": read_judge("lfw.bin")},
    )
    print(found.comparisons["LFW"]["old", "new"].deciding)
    ```
    """
    if against is not None and against not in candidates:
        raise InputError(f"there is no model {against!r}: {suggestion(against, list(candidates), 'models')}")
    drawn = next((name for name, judge in judges.items() if isinstance(judge, PairsJudge)), None)
    if roc is not None:
        check_roc(Path(roc))
        if drawn is None:
            raise InputError("ROC curves are of pairs, which no judge has")
    verdicts = {
        name: {
            called: judge.judge(candidate.model, candidate.input, candidate.embedding)
            for called, candidate in candidates.items()
        }
        for name, judge in judges.items()
    }
    if roc is not None and drawn is not None:
        save_roc(roc, cast("dict[str, Evaluation]", verdicts[drawn]))
    comparisons = {
        name: {
            (old, new): judge.compare(verdicts[name][old], verdicts[name][new])
            for old, new in _twos(list(candidates), against)
        }
        for name, judge in judges.items()
    }
    return Judgements(verdicts, comparisons)


def _twos(models: Sequence[str], against: str | None) -> Iterator[tuple[str, str]]:
    """Return which models are compared, the old one first."""
    if against is not None:
        return ((against, model) for model in models if model != against)
    return pairwise(models) if len(models) == 2 else iter(())
