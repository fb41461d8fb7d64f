from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from any_choices import configs
from hypothesis import given

from recipes.tsmr import Adversary, Attack, Augment, Margin, Stage, TSMRConfig
from reparam_kit import InputError

NAN, INF, HUGE = float("nan"), float("inf"), 10**30
NUMBERS = [NAN, INF, -INF, -1.0, True, "1", None, [1.0], {}]
WHOLE = [0, -1, 1.5, 2.0, NAN, INF, True, "2", [2], HUGE, 10**5000]
FLAGS = ["no", "true", 1, 0, 0.0, None, []]
NAMES = [3, True, 1.5, "", {}, ["raw"], "imagnet"]
BAD: dict[Any, dict[str, list[Any]]] = {
    Stage: {
        "epochs": [*WHOLE, None],
        "rate": [*NUMBERS, 0, 0.0],
        "losses": [3, "cosine", [1], {"cosine": NAN}, {"cosine": "1"}, {1: 1.0}],
    },
    Margin: {
        "kind": ["arcfac", 1, None, True, ["arcface"]],
        "size": [*NUMBERS, 1.5],
        "scale": [*NUMBERS, 0.0],
        "classes": [*(number for number in WHOLE if number != 0), 0.0, False, 1],
    },
    Adversary: {
        "hidden": [*WHOLE, None, 10**9],
        "lr": [*NUMBERS, 0.0],
        "warmup": [*NUMBERS, 1.1],
        "saturation": [*NUMBERS, 0.5, 1.0],
    },
    Attack: {"radius": [*NUMBERS, 0.0], "steps": [*WHOLE, None]},
    Augment: {
        share: [*NUMBERS, 1.5]
        for share in ("mirror", "affine", "crop", "colour", "low_resolution", "occlusion", "mix")
    },
    TSMRConfig: {
        "task": ["logit", None, 1, ["logits"]],
        "block": [3, True, "", ["dbb"], {}],
        "norm": ["bach", None, 1],
        "restore_bn": FLAGS,
        "student_input": [*NAMES, None],
        "teacher_input": [3, True, None, (), [], ["raw", 3], ["raw", "rw"], "rw", {}, ""],
        **{name: ["conv", 3, True, [3], {}] for name in ("include", "exclude")},
        "student_output": [3, True, "", [], ["y"]],
        "teacher_output": [3, True, (), [], ["y", 3], {}],
        "combine": ["men", None, 1],
        "stages": [(), [], {}, "dbb", 3, [3], [None], [{}], [{"cosin": 1}], [{"cosine": NAN}], [[]]],
        **{
            part: [None, 3, "x", [], {"scal": 1}, True]
            for part in ("margin", "adversary", "attack", "augment")
        },
        "views": ["al", 0, -1, 1.5, "2", True, None, ["live"], HUGE],
        "keep_gallery": NUMBERS,
        "batch_size": [*(number for number in WHOLE if number is not None), 1],
        "accumulate": [*WHOLE, None],
        "steps": WHOLE,
        "images": WHOLE,
        "epochs": WHOLE,
        "budget": [*(number for number in NUMBERS if number is not None), 0, 0.0],
        "auto": [flag for flag in FLAGS if flag is not None],
        "temperature": [*NUMBERS, 0.0],
        "lr": [*(number for number in NUMBERS if number is not None), 0, 0.0],
        "weight_decay": NUMBERS,
        "warmup": [*NUMBERS, 1.0],
        "clip": [*NUMBERS, 0.0],
        "shares": [0.5, "half", True, None, [1.5], [-0.1], ["a"], [NAN], {}],
        "share": [*(number for number in NUMBERS if number is not None), 1.5],
        "ema": [*NUMBERS, 1.0],
        **dict.fromkeys(("bf16", "compile"), FLAGS),
        "flip": FLAGS,
        "decides": [3, True, "", [], ["d'"]],
        "seed": [*WHOLE[1:], None],
        "workers": [*WHOLE[1:], None, 10**6],
    },
}
GIVEN = {Stage: {"cosine": 1.0}}  # without which no stage is made
PLACE = {Stage: "stages[0]", Margin: "margin", Adversary: "adversary", Attack: "attack", Augment: "augment"}


def test_every_choice_is_in_the_table() -> None:
    assert {kind: set(rows) for kind, rows in BAD.items()} == {
        kind: {field.name for field in fields(kind)} for kind in BAD
    }


def nested(kind: Any, choices: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a run in which the part ``kind`` has these choices."""
    if kind is TSMRConfig:
        return choices
    return {"stages": [choices]} if kind is Stage else {PLACE[kind]: choices}


@pytest.mark.parametrize("kind", BAD)
def test_a_value_that_cannot_be_used_gets_the_same_line_from_python_and_json(kind: Any) -> None:
    for name, values in BAD[kind].items():
        for value in values:
            choices = {**GIVEN.get(kind, {}), name: value}
            with pytest.raises(InputError) as caught:
                kind(**choices)
            line = str(caught.value)
            assert line.startswith(name), line
            assert "\n" not in line
            assert len(line) < 400
            with pytest.raises(InputError) as written:
                TSMRConfig.from_json(nested(kind, choices))
            assert str(written.value) == (f"{PLACE[kind]}.{line}" if kind in PLACE else line)


@pytest.mark.parametrize(
    ("kind", "choices", "says"),
    [
        (TSMRConfig, {"student_input": "imagnet"}, "student_input: .*did you mean 'imagenet'"),
        (TSMRConfig, {"teacher_input": ("raw", "rw")}, "teacher_input: .*did you mean 'raw'"),
        (TSMRConfig, {"combine": "men"}, "combine='men' is not known: did you mean 'mean'?"),
        (TSMRConfig, {"stages": ()}, "stages=.. must be one stage at least"),
        (TSMRConfig, {"flip": "no"}, "flip='no' must be true or false"),
        (TSMRConfig, {"lr": NAN}, "lr=nan must be a positive number, or none"),
        (TSMRConfig, {"batch_size": 64.5}, "batch_size=64.5 must be a whole number, at least 2"),
        (
            TSMRConfig,
            {"stages": [Stage(cosine=1), {"mse": -1}]},
            r"stages\[1\].mse=-1 must be a number, zero",
        ),
        (TSMRConfig, {"margin": {"scal": 1}}, "margin: Margin has no choice 'scal': did you mean 'scale'?"),
        (Stage, {"losses": {"mse": 0}}, "a stage minimises nothing: give a weight to one of cosine, mse"),
    ],
)
def test_the_line_says_what_is_wanted(kind: Any, choices: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        kind(**choices)


def test_what_is_none_has_a_word_for_files_that_have_none() -> None:
    config = TSMRConfig(block="plain", margin=Margin(classes=0))
    assert (config.block, config.margin.classes) == (None, None)
    assert config == TSMRConfig(block=None)
    assert config.to_json()["block"] == "plain"


@pytest.mark.parametrize("lr", [np.float64(2e-4), np.float32(2e-4), torch.tensor(2e-4)])
def test_a_number_of_another_library_is_a_number(lr: Any) -> None:
    config = TSMRConfig(lr=lr)
    assert type(config.lr) is float
    assert config.lr == pytest.approx(2e-4)
    assert type(Stage(cosine=lr).losses["cosine"]) is float


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


@given(configs)
def test_any_choices_come_back_from_json(config: TSMRConfig) -> None:
    assert TSMRConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"version": 1}, "choices of version 1; this is version 2"),
        ({"version": True}, "choices of version True; this is version 2"),
        ({"learning_rate": 1.0}, "TSMRConfig has no choice 'learning_rate'"),
        ({1: 1.0}, "TSMRConfig has no choice 1"),
        ({"weigth_decay": 1.0}, "did you mean 'weight_decay'?"),
        (
            {"stages": [{"cosin": 1.0}]},
            "stages[0]: Stage has no choice or loss 'cosin' "
            "(a loss of one's own is known once its module is imported): "
            "did you mean 'cosine'?",
        ),
        ({"stages": [{1: 1.0}]}, "stages[0]: Stage has no choice or loss 1"),
        ({"stages": [{"epoch": 3, "cosine": 1.0}]}, "did you mean 'epochs'?"),
        ({"stages": [{"losses": {"cosin": 1.0}}]}, "stages[0].losses: there is no loss 'cosin'"),
        ({"stages": [3]}, "stages[0]: Stage is written as {name: value}, not as 3"),
        ({"margin": {"kind": "cosface", "size": "wide"}}, "margin.size='wide' must be a number"),
        ([], "choices are written as {name: value}, not as list"),
    ],
)
def test_json_that_is_no_choice_is_refused(values: Any, says: str) -> None:
    with pytest.raises(InputError) as caught:
        TSMRConfig.from_json(values)
    assert says in str(caught.value)


def test_epochs_are_counted_through_the_stages() -> None:
    config = TSMRConfig(stages=(Stage(2, cosine=1.0), Stage(1, mse=1.0), Stage(3, cosine=1.0)))
    assert config.total_epochs == 6
    assert [config.place(epoch) for epoch in range(1, 7)] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    assert config.losses == ("cosine", "mse")
    assert replace(config, keep_gallery=0.5).losses == ("cosine", "mse", "gallery")
    assert replace(config, teacher_input=("raw", "raw")).teacher_inputs == ("raw", "raw")
