"""Several models by several judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from wrong_files import picture

from recipes.faces import (
    Candidate,
    Evaluation,
    Judge,
    PairSet,
    PairsJudge,
    Verdict,
    judge_models,
)
from reparam_kit import InputError


class Width(Judge):
    """Judges the number of inputs."""

    def judge(self, model: Any, input: Any = "raw", embedding: str | None = None) -> Verdict:
        value = float(model.in_features)
        return Verdict.of_means({"width": np.full(4, value)}, decides="width", subject="layers")


@pytest.fixture
def candidates() -> dict[str, Candidate]:
    return {name: Candidate(nn.Linear(width, 1), "raw") for name, width in (("a", 1), ("b", 2), ("c", 4))}


@pytest.mark.parametrize(
    ("names", "against", "compared"),
    [
        ("a", None, []),
        ("ab", None, [("a", "b")]),
        ("abc", None, []),
        ("abc", "b", [("b", "a"), ("b", "c")]),
        ("ab", "b", [("b", "a")]),
    ],
)
def test_two_are_compared_or_each_with_the_one_named(
    candidates: dict[str, Candidate], names: str, against: str | None, compared: list[tuple[str, str]]
) -> None:
    chosen = {name: candidates[name] for name in names}
    found = judge_models(chosen, {"one": Width(), "two": Width()}, against=against)
    assert list(found.verdicts) == list(found.comparisons) == ["one", "two"]
    for judge in found.verdicts:
        assert list(found.verdicts[judge]) == list(chosen)
        assert list(found.comparisons[judge]) == compared
    rows = found.to_json()
    assert [(row["set"], row["model"]) for row in rows] == [(j, n) for j in ("one", "two") for n in names]
    assert [tuple(row.get("against", {})) for row in rows[: len(names)]] == [
        tuple(old for old, new in compared if new == name) for name in names
    ]


def test_a_comparison_is_of_the_new_one_less_the_old(candidates: dict[str, Candidate]) -> None:
    found = judge_models(candidates, {"": Width()}, against="b").comparisons[""]
    assert found["b", "a"].deciding.value == -1
    assert found["b", "c"].deciding.value == 2


def test_what_cannot_be_is_said_before_anything_is_judged(
    candidates: dict[str, Candidate], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="there is no model 'd': known models: a, b, c"):
        judge_models(candidates, {"": Width()}, against="d")
    with pytest.raises(InputError, match="ROC curves are of pairs, which no judge has"):
        judge_models(candidates, {"": Width()}, roc=tmp_path / "roc.svg")
    assert not list(tmp_path.iterdir())


def test_the_curves_are_those_of_the_judge_by_pairs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    images = [picture(i // 2 if i % 4 < 2 else i, 8) for i in range(40)]
    pairs = PairSet(images, np.arange(20) % 2 == 0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8))
    found = judge_models(
        {"net": Candidate(net, "insightface")}, {"pairs": PairsJudge(pairs)}, roc=tmp_path / "roc.svg"
    )
    assert isinstance(found.verdicts["pairs"]["net"], Evaluation)
    assert "net (accuracy" in (tmp_path / "roc.svg").read_text()
