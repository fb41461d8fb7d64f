"""What there is time for."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from recipes.tsmr import Augment, Stage, TSMRConfig
from recipes.tsmr.distributed import ALONE
from recipes.tsmr.search.budget import MOST_PASSES, USUAL, Budget, affordable, drawn, lasting
from recipes.tsmr.search.trials import FEWEST, ROUNDS, plan
from recipes.tsmr.targets.views import Part, Views

CONFIG = TSMRConfig(batch_size=10)


@example(images=10, rate=1.0, seconds=-1.0, judging=0.0, others=[])
@example(images=10, rate=1.0, seconds=1.0, judging=2.2e-311, others=[])
@example(images=1000, rate=10.0, seconds=100.0, judging=200.0, others=[1])
@given(
    images=st.integers(10, 10**7),
    rate=st.floats(1, 1e5),
    seconds=st.floats(-100, 1e5),
    judging=st.floats(0, 1e3),
    others=st.lists(st.integers(1, 3), max_size=2),
)
def test_what_is_planned_fits(
    images: int, rate: float, seconds: float, judging: float, others: list[int]
) -> None:
    stages = tuple(Stage(epochs, cosine=1.0) for epochs in (1, *others))
    config = lasting(replace(CONFIG, stages=stages), images, rate, seconds, judging, ALONE)
    assert config.steps is not None
    assert [stage.epochs for stage in config.plan.stages[1:]] == others
    steps, fewest = config.total_epochs * config.steps, 1 + sum(others)
    assert 1 <= steps <= max(MOST_PASSES * max(images // 10, 1), fewest)
    if steps > config.total_epochs:
        assert steps * 10 / rate + (config.total_epochs - 1) * judging <= max(seconds, 0) * 1.001
    assert config.total_epochs <= max(10, fewest)


def test_images_that_are_moved_may_be_shown_more_often() -> None:
    stages = (Stage(1, cosine=1.0),)
    for augment, passes in ((Augment(), MOST_PASSES), (Augment(affine=0.5), 2 * MOST_PASSES)):
        config = replace(CONFIG, stages=stages, augment=augment)
        found = lasting(config, 100, 1e6, 1e6, 0.0, ALONE)
        assert found.total_epochs * (found.steps or 0) == 10 * passes


def test_several_stages_share_the_time() -> None:
    config = TSMRConfig(batch_size=10, stages=(Stage(1, cosine=1.0), Stage(2, cosine=1.0)))
    found = lasting(config, 10_000, 100.0, 1000.0, 1.0, ALONE)
    assert [stage.epochs for stage in found.plan.stages] == [8, 2]


@pytest.mark.parametrize(
    ("asked", "task", "minutes"),
    [
        (TSMRConfig(), "embeddings", USUAL),
        (TSMRConfig(), "logits", None),
        (TSMRConfig(epochs=3), "embeddings", None),
        (TSMRConfig(steps=3), "embeddings", None),
        (TSMRConfig(stages=(Stage(cosine=1.0),)), "embeddings", None),
        (TSMRConfig(stages=(Stage(cosine=1.0),), budget=3.0), "embeddings", 3.0),
        (TSMRConfig(budget=3.0), "logits", 3.0),
    ],
)
def test_whose_length_is_chosen_has_no_budget(asked: TSMRConfig, task: Any, minutes: float | None) -> None:
    budget = Budget.of(asked, task, time.monotonic())
    assert (budget and budget.seconds / 60) == minutes
    assert budget is None or 0 < budget.left <= budget.seconds


class Slow:
    """A net that takes its time for an image."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds * len(images))
        return images.flatten(1)


def test_nets_are_asked_in_a_third_of_the_time() -> None:
    views = Views([torch.full((3, 2, 2), i, dtype=torch.uint8) for i in range(100)])
    most = affordable(views, [Slow(0.02), Slow(0.02)], CONFIG, 4.0, ALONE)  # type: ignore[list-item]
    assert 10 <= most <= 36
    some = drawn(views, most, CONFIG)
    assert isinstance(some.images, Part)
    assert len(np.unique(some.images.chosen)) == most == len(some)
    assert drawn(views, 100, CONFIG) is views
    assert affordable(views, [Slow(1e-5)], CONFIG, 4.0, ALONE) == 100  # type: ignore[list-item]
    assert affordable(views, [Slow(1e-3)], CONFIG, -1.0, ALONE) == 10  # type: ignore[list-item]


def test_the_number_of_a_class_stays_where_few_images_show_few_of_them() -> None:
    labels = np.arange(100) // 2
    images: Any = Part([torch.zeros(3, 2, 2, dtype=torch.uint8)] * 100, np.arange(100), labels)  # type: ignore[arg-type]
    few: Any = drawn(Views(images), 20, replace(CONFIG, task="logits")).images
    assert (
        few.labels.tolist()
        == labels[few.chosen].tolist()
        != np.unique(few.labels, return_inverse=True)[1].tolist()
    )


@given(
    seconds=st.floats(-10, 1e5), judging=st.floats(0, 1e3), pace=st.floats(1e-3, 1e3), most=st.floats(0, 1e6)
)
def test_trials_take_no_more_time_than_they_may(
    seconds: float, judging: float, pace: float, most: float
) -> None:
    rounds, first = plan(seconds, judging, pace, most)
    steps = first * sum(many * times for many, times in rounds)
    assert steps <= most
    assert steps / pace + judging * sum(many for many, _ in rounds) <= max(seconds, 0) * 1.001
    assert (rounds == ()) == (first == 0)
    assert first == 0 or first >= FEWEST


def test_a_shorter_search_is_made_where_there_is_no_time_for_the_whole() -> None:
    found = [plan(seconds, 10.0, 1.0)[0] for seconds in (10, 100, 1000)]
    assert found == [(), ROUNDS[1], ROUNDS[0]]
