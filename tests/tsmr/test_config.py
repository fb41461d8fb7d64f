from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from recipes.tsmr import Adversary, Attack, Augment, Margin, Stage, TSMRConfig
from reparam_kit import InputError


@pytest.mark.parametrize(
    ("kind", "choices", "says"),
    [
        (TSMRConfig, {"student_input": "imagnet"}, "did you mean 'imagenet'"),
        (TSMRConfig, {"teacher_input": "rw"}, "did you mean 'raw'"),
        (TSMRConfig, {"teacher_input": ("raw", "rw")}, "did you mean 'raw'"),
        (TSMRConfig, {"combine": "men"}, "combine='men': did you mean 'mean'?"),
        (TSMRConfig, {"stages": ()}, "stages=() must be one stage at least"),
        (TSMRConfig, {"batch_size": 1}, "batch_size=1 must be at least 2"),
        (TSMRConfig, {"accumulate": 0}, "accumulate=0 must be at least 1"),
        (TSMRConfig, {"lr": 0.0}, "lr=0.0 must be positive"),
        (TSMRConfig, {"lr": float("nan")}, "lr=nan must be positive"),
        (TSMRConfig, {"weight_decay": -0.1}, "weight_decay=-0.1 must be zero or positive"),
        (TSMRConfig, {"warmup": 1.0}, "warmup=1.0 must be at least 0 and below 1"),
        (TSMRConfig, {"clip": 0.0}, "clip=0.0 must be positive"),
        (TSMRConfig, {"ema": 1.0}, "ema=1.0 must be at least 0 and below 1"),
        (TSMRConfig, {"keep_gallery": -1.0}, "keep_gallery=-1.0 must be zero or positive"),
        (TSMRConfig, {"workers": -1}, "workers=-1 must be zero or positive"),
        (Stage, {}, "a stage minimises nothing: give a weight to one of cosine, mse"),
        (Stage, {"cosine": 1.0, "epochs": 0}, "epochs=0 must be at least 1"),
        (Stage, {"cosine": 1.0, "rate": 0.0}, "rate=0.0 must be positive"),
        (Stage, {"cosine": -1.0}, "cosine=-1.0 must be zero or positive"),
        (Margin, {"kind": "arcfac"}, "margin.kind='arcfac': did you mean 'arcface'?"),
        (Margin, {"size": -0.1}, "size=-0.1 must be at least 0"),
        (Margin, {"scale": 0.0}, "scale=0.0 must be positive"),
        (Margin, {"classes": 1}, "classes=1 must be at least 2"),
        (Adversary, {"hidden": 0}, "hidden=0 must be at least 1"),
        (Adversary, {"lr": 0.0}, "lr=0.0 must be positive"),
        (Adversary, {"warmup": 1.1}, "warmup=1.1 must be between 0 and 1"),
        (Adversary, {"saturation": 0.5}, "saturation=0.5 must be above 0.5"),
        (Attack, {"radius": 0.0}, "radius=0.0 must be positive"),
        (Augment, {"crop": 1.5}, "crop=1.5 must be between 0 and 1"),
        (Attack, {"steps": 0}, "steps=0 must be at least 1"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(kind: Any, choices: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        kind(**choices)
    assert says in str(caught.value)


def test_it_is_frozen_and_comes_back_from_json() -> None:
    config = TSMRConfig(
        lr=2e-4,
        teacher_input=("raw", "insightface"),
        stages=(Stage(epochs=2, mse=0.5), Stage(adversarial=1.0)),
        margin=Margin("arcface", 0.5, 64.0, classes=100),
        attack=Attack(4.0, 3),
        augment=Augment(crop=0.2),
    )
    with pytest.raises(FrozenInstanceError):
        config.lr = 1.0  # type: ignore[misc]
    written = config.to_json()
    assert written["version"] == TSMRConfig.VERSION
    assert TSMRConfig.from_json(json.loads(json.dumps(written))) == config


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"version": 1}, "choices of version 1; this is version 2"),
        ({"learning_rate": 1.0}, "TSMRConfig has no choice 'learning_rate'"),
        ({"weigth_decay": 1.0}, "did you mean 'weight_decay'?"),
        ({"stages": [{"cosin": 1.0}]}, "Stage has no choice 'cosin': did you mean 'cosine'?"),
        ({"stages": [3]}, "Stage is written as {name: value}, not as 3"),
        ({"margin": {"kind": "cosface", "size": "wide"}}, "Margin:"),
    ],
)
def test_json_that_is_no_choice_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        TSMRConfig.from_json(values)
    assert says in str(caught.value)


def test_epochs_are_counted_through_the_stages() -> None:
    config = TSMRConfig(stages=(Stage(2, cosine=1.0), Stage(1, mse=1.0), Stage(3, cosine=1.0)))
    assert config.epochs == 6
    assert [config.place(epoch) for epoch in range(1, 7)] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    assert config.uses("mse")
    assert not config.uses("margin", "centres")
    assert replace(config, teacher_input=("raw", "raw")).teacher_inputs == ("raw", "raw")
