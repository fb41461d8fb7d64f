from __future__ import annotations

import numpy as np
import pytest

from recipes.faces import Evaluation
from recipes.tsmr.judging import better_input, rank, refuse_chance
from reparam_kit import InputError


def judged(
    accuracy: float = 0.9, d_prime: float | None = 2.0, pairs: int = 200, **tars: float | None
) -> Evaluation:
    fars = {"tar2": 0.01, "tar3": 0.001}
    return Evaluation(
        pairs=pairs,
        genuine=pairs // 2,
        impostors=pairs - pairs // 2,
        embedding_size=8,
        input="insightface",
        flip=False,
        folds=10,
        accuracy=accuracy,
        accuracy_std=0.0,
        threshold=0.3,
        tar_at_far={far: tars.get(name) for name, far in fars.items()},
        scores=np.zeros(pairs),
        same=np.arange(pairs) % 2 == 0,
        d_prime=d_prime,
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
    assert rank(better) > rank(worse)


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
    if refused:
        with pytest.raises(InputError, match="the teacher t scores at chance"):
            refuse_chance(evaluation, "the teacher t")
    else:
        refuse_chance(evaluation, "the teacher t")


@pytest.mark.parametrize(
    ("separations", "better"),
    [
        ({"imagenet": 2.0, "insightface": 2.0}, None),
        ({"imagenet": 2.03, "insightface": 2.0}, None),
        ({"imagenet": 2.1, "insightface": 2.0}, "imagenet"),
        ({"imagenet": 1.0, "insightface": 2.0}, None),
        ({"imagenet": 1.0}, "imagenet"),  # as asked for, there was no usable embedding
    ],
)
def test_an_input_is_better_where_it_separates_clearly_more(
    separations: dict[str, float], better: str | None
) -> None:
    inputs = {name: judged(d_prime=value) for name, value in separations.items()}
    assert better_input(inputs, "insightface") == better
