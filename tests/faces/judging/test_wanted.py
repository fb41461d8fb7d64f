"""Which input preset a model wants: told where the examples tell it, and not where they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from wanting import Wants

from recipes.faces import (
    ClassesJudge,
    Figure,
    Judge,
    PairSet,
    PairsJudge,
    PeopleJudge,
    Verdict,
    find_input,
    input_preset,
    write_pairs,
)
from recipes.faces.embedding.inputs import all_presets
from recipes.faces.judging.wanted import FoundInput, input_warning, try_inputs
from reparam_kit import InputError
from reparam_kit.cli import main

PEOPLE = 24


def faces(grey: bool = False, seed: int = 0) -> list[np.ndarray]:
    """Two pictures of each of ``PEOPLE``: colours of one's own, and a little noise."""
    rng = np.random.default_rng(seed)
    own = rng.integers(20, 236, (PEOPLE, 8, 8, 1 if grey else 3)).repeat(3 if grey else 1, axis=3)
    noise = rng.normal(0, 40, (2, PEOPLE, 8, 8, 1 if grey else 3))
    pictures = np.clip(own + noise, 0, 255).astype(np.uint8)
    return [pictures[shot, person] for person in range(PEOPLE) for shot in range(2)]


@pytest.fixture
def some_pairs(encode: Callable[..., bytes]) -> Callable[..., PairSet]:
    def make(grey: bool = False) -> PairSet:
        images = [encode(picture) for picture in faces(grey)]
        genuine = [(2 * i, 2 * i + 1) for i in range(PEOPLE)]
        others = [(2 * i, (2 * i + 3) % (2 * PEOPLE)) for i in range(PEOPLE)]
        chosen = [pair for both in zip(genuine, others, strict=True) for pair in both]
        same = np.tile([True, False], PEOPLE)
        return PairSet([images[i] for pair in chosen for i in pair], same)

    return make


class Items(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 2 * PEOPLE

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(faces()[index]).permute(2, 0, 1), index // 2


@pytest.mark.parametrize("kind", ["pairs", "people", "classes"])
def test_every_judge_tells_an_input_that_is_far_off(kind: str, some_pairs: Callable[..., PairSet]) -> None:
    judges: dict[str, Callable[[], Judge]] = {
        "pairs": lambda: PairsJudge(some_pairs()),
        "people": lambda: PeopleJudge(Items()),
        "classes": lambda: ClassesJudge(Items(), outputs="embeddings"),
    }
    found = find_input(Wants("insightface"), judges[kind]())
    assert "insightface" in found.alike
    assert "raw" in found.verdicts
    assert "raw" not in found.alike
    assert found.better("raw") == found.best


@pytest.mark.parametrize("wanted", ["imagenet", "insightface", "raw", "raw-bgr", "insightface-bgr"])
def test_the_input_that_a_model_wants_is_first(
    wanted: str, pictures: Callable[..., list[np.ndarray]], encode: Callable[..., bytes]
) -> None:
    """Of pictures whose blue is noise, so that only red tells people apart."""
    random, same = np.random.default_rng(1), np.arange(40) % 2 == 0
    images = []
    for number, picture in enumerate(pictures(40)):
        noisy = np.clip(picture + random.normal(0, 60, picture.shape), 0, 255).astype(np.uint8)
        images += [picture, noisy if same[number] else pictures(1, seed=100 + number)[0]]
    for number, image in enumerate(images):
        image[..., 2] = pictures(1, seed=1000 + number)[0][..., 2]
    found = find_input(Wants(wanted), PairSet(list(map(encode, images)), same))
    assert {preset.name for preset in all_presets()} <= set(found.verdicts)
    assert found.best == wanted
    separations = [verdict.separation.goodness for verdict in found.verdicts.values()]
    assert separations == sorted(separations, reverse=True)
    assert all(verdict.to_json()["input"] == name for name, verdict in found.verdicts.items())
    again = FoundInput.from_state(found.state_dict())
    assert again.to_json() == found.to_json()


def test_a_few_examples_are_looked_at(some_pairs: Callable[..., PairSet]) -> None:
    for found in (
        find_input(nn.Flatten(), some_pairs(), limit=12),
        try_inputs(nn.Flatten(), PairsJudge(some_pairs()), input_preset("raw"), limit=12),
    ):
        assert found is not None
        assert {verdict.to_json()["pairs"] for verdict in found.verdicts.values()} == {12}


def test_a_net_that_says_nothing_is_one_line(some_pairs: Callable[..., PairSet]) -> None:
    class Silent(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * x.flatten(1)

    with pytest.raises(InputError, match="zero or not finite"):
        find_input(Silent(), some_pairs())
    assert try_inputs(Silent(), PairsJudge(some_pairs()), input_preset("raw")) is None
    assert input_warning("it", None, "raw") is None


def found_input(chances: dict[str, float | None], grey: bool = False, **separations: float) -> FoundInput:
    verdicts = {
        name: Verdict(figures=(Figure("d'", value, share=False),), decides="d'", subject="pairs")
        for name, value in separations.items()
    }
    return FoundInput(verdicts, chances, {}, grey)


@pytest.mark.parametrize(
    ("found", "wanted", "told"),
    [
        (found_input({"b": 0.01}, a=3.0, b=2.0), "a", "the model wants 'a' (by d', on pairs)"),
        (found_input({}, a=3.0), "a", "the model wants 'a' (by d', on pairs)"),
        (
            found_input({"b": 0.2, "c": 0.01}, a=3.0, b=2.9, c=1.0), None,
            "could not tell between 'a', 'b': they do not differ by more than chance (by d', on pairs)",
        ),
        (found_input({"b": 0.001}, a=3.0, b=2.9999), None, "could not tell between 'a', 'b'"),  # rounding
        (found_input({"b": None}, a=3.0, b=1.0), None, "could not tell between 'a', 'b': the judge does not compare"),
        (
            found_input({"b": 1.0}, True, a=3.0, b=3.0), None,
            "could not tell between 'a', 'b': they do not differ by more than chance (by d', on pairs; the images are "
            "grey, and cannot tell the order of the channels",
        ),
    ],
)  # fmt: skip
def test_an_input_is_wanted_where_all_others_are_behind_by_more_than_chance(
    found: FoundInput, wanted: str | None, told: str
) -> None:
    assert found.wanted == wanted
    assert found.told().startswith(told)
    assert found.to_json()["wanted"] == wanted


@pytest.mark.parametrize(
    ("found", "better"),
    [
        (found_input({"b": 0.01}, a=3.0, b=2.0), "a"),
        (found_input({"b": 0.01}, a=3.0, b=2.99), None),
        (found_input({"b": 0.3}, a=3.0, b=2.0), None),
        (found_input({"c": 0.01}, a=3.0, c=2.0), "a"),  # as asked for, there was no usable embedding
        (found_input({"a": 0.01}, b=3.0, a=2.0), None),
    ],
)
def test_an_input_is_better_clearly_and_by_more_than_chance(found: FoundInput, better: str | None) -> None:
    assert found.better("b") == better


def test_grey_images_are_seen(some_pairs: Callable[..., PairSet]) -> None:
    assert find_input(nn.Flatten(), some_pairs(grey=True)).grey
    assert not find_input(nn.Flatten(), some_pairs()).grey


def test_chance_is_named(some_pairs: Callable[..., PairSet]) -> None:
    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.randn(len(x), 6, generator=torch.Generator().manual_seed(len(x)))

    found = find_input(Noise(), some_pairs())
    assert found.wanted is None
    assert found.told().startswith("could not tell: under no input does the model do better than chance")


def test_presets_of_ones_own_are_tried_too(some_pairs: Callable[..., PairSet]) -> None:
    formula = "(x - [10, 128, 250]) / [20, 60, 90]"
    assert formula in find_input(nn.Flatten(), some_pairs(), inputs=[formula]).verdicts


def test_a_net_of_one_channel_is_tried_with_greys(
    some_pairs: Callable[..., PairSet], onnx_net: Callable[..., Path]
) -> None:
    class Grey(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x, torch.ones(1, 1, 1, 1)).flatten(1)

    assert set(find_input(Grey(), some_pairs()).verdicts) == {"insightface-grey", "raw-grey", "unit-grey"}


def test_normalised_images_want_no_preset() -> None:
    class Normalised(Items):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            image, label = super().__getitem__(index)
            return image / 255, label

    with pytest.raises(InputError, match="the images are normalised already: no input preset"):
        find_input(nn.Flatten(), PeopleJudge(Normalised()))


@pytest.mark.parametrize("asked", ["raw", "raw-bgr"])
def test_a_wrong_input_is_warned_of(asked: str, some_pairs: Callable[..., PairSet]) -> None:
    judge, model = PairsJudge(some_pairs()), Wants("insightface")
    line = input_warning("the model", try_inputs(model, judge, input_preset(asked)), asked)
    assert line is not None
    assert line.startswith("the model does better with input ")
    assert f"than with {asked!r} as asked for (accuracy " in line
    best = find_input(model, judge).best
    assert input_warning("it", try_inputs(model, judge, input_preset(best)), best) is None


def test_an_input_without_embeddings_is_worse_than_any(some_pairs: Callable[..., PairSet]) -> None:
    class Rectified(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - 100).relu().flatten(1)

    line = input_warning(
        "it", try_inputs(Rectified(), PairsJudge(some_pairs()), input_preset("unit")), "unit"
    )
    assert line is not None
    assert "than with 'unit' as asked for (no usable embedding)" in line


@pytest.fixture
def command(
    some_pairs: Callable[..., PairSet], onnx_net: Callable[..., Path], tmp_path: Path
) -> Callable[..., Any]:
    write_pairs(tmp_path / "set.bin", some_pairs())

    def run(*words: str) -> Any:
        return CliRunner().invoke(main, [*words, str(onnx_net())], catch_exceptions=False)

    return run


def test_the_command_prints_a_table_and_a_line(command: Callable[..., Any], tmp_path: Path) -> None:
    result = command("inputs", "--val", str(tmp_path / "set.bin"))
    assert result.exit_code == 0
    assert "insightface-bgr" in result.stdout
    assert result.stdout.splitlines()[-1].startswith(("the model wants", "could not tell"))
    found = json.loads(command("inputs", "--json", "--val", str(tmp_path / "set.bin")).stdout)
    assert {"model", "set", "wanted", "alike", "told", "decides", "inputs"} <= found.keys()
    assert found["decides"] == "d'"
    assert len(found["inputs"]) == 10


def test_evaluate_warns_of_a_wrong_input(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["evaluate", "--input", "raw", "--folds", "4", "--pairs", str(tmp_path / "set.bin")]
    found: list[str] = []

    def better(self: FoundInput, asked: str) -> str | None:
        found.append(asked)
        return "unit"

    monkeypatch.setattr(FoundInput, "better", better)
    result = command(*words)
    assert found == ["raw"]
    (line,) = result.stderr.splitlines()
    assert "reparam-kit: warning: " in line
    assert "does better with input 'unit'" in line


@pytest.mark.parametrize("words", [(), ("--val", "a.bin", "--val-people", "b.rec")])
def test_one_judge_is_given(command: Callable[..., Any], words: tuple[str, ...]) -> None:
    result = command("inputs", *words)
    assert result.exit_code == 2
    assert "give what judges the model: --val SET or --val-people FACES, and not both" in result.stderr
