from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.faces import Comparison, Evaluation, Figure, Verdict
from recipes.faces.judging.verdict import Difference
from reparam_kit import InputError


def judged(
    accuracy: float = 0.9, d_prime: float | None = 2.0, pairs: int = 200, **tars: float | None
) -> Evaluation:
    figures = (
        Figure("accuracy", accuracy),
        Figure("TAR at FAR 0.01", tars.get("tar2")),
        Figure("TAR at FAR 0.001", tars.get("tar3")),
        Figure("d'", d_prime, share=False),
    )
    return Evaluation(
        figures=figures,
        decides="accuracy",
        outcomes={"scores": np.zeros(pairs), "same": np.arange(pairs) % 2 == 0},
        pairs=pairs,
        genuine=pairs // 2,
        impostors=pairs - pairs // 2,
        embedding_size=8,
        input="insightface",
        flip=False,
        fars=(0.01, 0.001),
        folds=10,
        accuracy_std=0.0,
        threshold=0.3,
    )


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        (judged(0.9, 9.0, tar2=0.9), judged(0.91, 1.0, tar2=0.1)),
        (judged(0.9, 9.0, tar2=0.9, tar3=0.1), judged(0.9, 1.0, tar2=0.2, tar3=0.2)),
        (judged(1.0, 4.0, tar2=1.0), judged(1.0, 4.1, tar2=1.0)),
        (judged(1.0, None, tar2=1.0), judged(1.0, 0.1, tar2=1.0)),
    ],
)
def test_accuracy_goes_before_rates_before_separation(worse: Evaluation, better: Evaluation) -> None:
    assert better.rank() > worse.rank()


@pytest.mark.parametrize(
    ("evaluation", "refused"),
    [
        (judged(0.5, 0.0), True),
        (judged(0.58, 0.2), True),
        (judged(0.7, 1.1), False),
        (judged(0.7, 0.9), False),
        (judged(0.7, 0.2, pairs=20), True),  # few pairs are luck
        (judged(0.7, 1.5, pairs=20), False),
    ],
)
def test_chance_is_what_guessing_could_give(evaluation: Evaluation, refused: bool) -> None:
    assert evaluation.at_chance() == refused


@pytest.mark.parametrize(
    ("after", "chance", "told"),
    [
        (0.95, 0.01, "better by more than chance"),
        (0.85, 0.01, "worse by more than chance"),
        (0.95, 0.2, "no difference that these pairs could show"),
        (0.9, 0.01, "no difference that these pairs could show"),
        (0.95, None, "not tested"),
    ],
)
def test_a_difference_is_told_as_far_as_the_examples_show_it(
    after: float, chance: float | None, told: str
) -> None:
    one = Difference(Figure("accuracy", 0.9), Figure("accuracy", after), (0.0, 0.1), chance)
    assert one.told("pairs") == told
    assert replace(one, chance=1e-9).chance_shown == "<0.001"
    assert one.chance_shown == ("" if chance is None else f"{chance:.3f}")
    assert Comparison((one,), "accuracy", "", "pairs").to_json()["told"] == told


def test_less_may_be_better() -> None:
    def error(value: float | None) -> Verdict:
        return Verdict(figures=(Figure("error", value, "lower"), Figure("speed", 1.0)), decides="error")

    assert error(0.1).rank() > error(0.2).rank() > error(None).rank()


def test_a_figure_that_decides_and_is_not_there() -> None:
    with pytest.raises(InputError, match="no figure is called 'acuracy': did you mean 'accuracy'"):
        Verdict(figures=(Figure("accuracy", 0.5),), decides="acuracy")


@pytest.mark.parametrize(
    "verdict", [judged(tar2=0.5), Verdict.of_means({"hit": np.array([True, False])}, "hit")]
)
def test_a_checkpoint_gives_back_what_it_was_given(verdict: Verdict, tmp_path: Path) -> None:
    torch.save(verdict.state_dict(), tmp_path / "v.pt")
    again = Verdict.from_state(torch.load(tmp_path / "v.pt", weights_only=True))
    assert type(again) is type(verdict)
    assert again.to_json() == verdict.to_json()
    assert again.outcomes.keys() == verdict.outcomes.keys()
    assert all(np.array_equal(again.outcomes[name], values) for name, values in verdict.outcomes.items())


def test_a_verdict_without_a_subject_says_how_many_examples() -> None:
    right = np.array([True, False, True])
    assert Verdict.of_means({"right": right}, "right").subject == "3 examples"
    assert Verdict.of_means({"right": right}, "right", subject="three").subject == "three"
    assert Verdict(figures=(Figure("a", 1.0),), decides="a").subject == "the examples of its judge"


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ({}, "mean of a number for each"),
        ({"a": np.ones(3), "b": np.ones(2)}, "mean of a number for each"),
        ({"a": np.ones(0)}, "no example"),
        ({"a": np.array([1, np.nan])}, "not finite"),
    ],
)
def test_means_of_nothing_sound_are_refused(outcomes: dict[str, np.ndarray], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Verdict.of_means(outcomes, "a")
