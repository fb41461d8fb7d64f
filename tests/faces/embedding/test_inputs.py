from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plugs import fresh, install

from recipes.faces import InputPreset, input_preset
from recipes.faces.embedding.inputs import PRESETS, all_presets
from reparam_kit import InputError

IMAGENET = (((0.485, 0.456, 0.406)), ((0.229, 0.224, 0.225)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "pixel", "wanted"),
    [
        ("raw", (10, 20, 30), (10, 20, 30)),
        ("raw-bgr", (10, 20, 30), (30, 20, 10)),
        ("insightface", (0, 255, 127), (-1, 1, -0.5 / 127.5)),
        ("insightface-bgr", (0, 255, 127), (-0.5 / 127.5, 1, -1)),
        (
            "imagenet",
            (51, 102, 204),
            [(v - m) / s for v, m, s in zip((0.2, 0.4, 0.8), *IMAGENET, strict=True)],
        ),
        (
            "imagenet-bgr",
            (51, 102, 204),
            [(v - m) / s for v, m, s in zip((0.2, 0.4, 0.8), *IMAGENET, strict=True)][::-1],
        ),
    ],
)
def test_presets(name: str, pixel: tuple[int, ...], wanted: tuple[float, ...], dtype: torch.dtype) -> None:
    images = torch.tensor(pixel, dtype=dtype).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    normalised = input_preset(name)(images)
    assert normalised.dtype == torch.float32
    assert normalised.shape == images.shape
    torch.testing.assert_close(normalised[1, :, 3, 4], torch.tensor(wanted, dtype=torch.float32))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imagnet", "did you mean 'imagenet'"),
        ("insightface_bgr", "did you mean 'insightface-bgr'"),
        ("xyz", "known names: imagenet, insightface, raw, unit .or write a formula"),
    ],
)
def test_unknown(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        input_preset(name)


@pytest.mark.parametrize(
    ("text", "pixel", "wanted"),
    [
        ("(x - 127.5) / 128", (0, 255, 127.5), (-127.5 / 128, 127.5 / 128, 0)),
        (" x  /255 ", (0, 51, 255), (0, 0.2, 1)),
        ("x / 255, bgr", (0, 51, 255), (1, 0.2, 0)),
        ("2 * x - 1", (0, 1, 2), (-1, 1, 3)),
        ("1 - x / 255", (0, 255, 51), (1, 0, 0.8)),
        ("-(x)", (1, 2, 3), (-1, -2, -3)),
        ("x * [1, 2, 3] + 1e1", (1, 1, 1), (11, 12, 13)),
        ("(x / 255 - [.5, 0.25, 0]) / 0.5", (255, 51, 0), (1, -0.1, 0)),
        ("x / (2 + 3 * [1, 2, 1]) ,bgr", (5, 8, 10), (2, 1, 1)),
    ],
)
def test_formulas(text: str, pixel: tuple[float, ...], wanted: tuple[float, ...]) -> None:
    images = torch.tensor(pixel, dtype=torch.float32).view(1, 3, 1, 1)
    preset = input_preset(text)
    torch.testing.assert_close(preset(images).flatten(), torch.tensor(wanted, dtype=torch.float32))
    assert preset.name == text


numbers = st.floats(-300, 300, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-30)
triples = st.tuples(numbers, numbers, numbers)


@given(mean=triples, std=triples.filter(all), bgr=st.booleans())
def test_a_preset_is_read_back_from_its_formula(
    mean: tuple[float, float, float], std: tuple[float, float, float], bgr: bool
) -> None:
    preset = InputPreset("mine", mean, std, bgr)
    again = input_preset(preset.formula)
    assert (again.mean, again.std, again.bgr) == (mean, std, bgr)


@given(st.text("x0123456789.eE+-*/()[], bgr\n", max_size=40))
def test_any_text_is_a_preset_or_an_error_of_the_family(text: str) -> None:
    with suppress(InputError):
        assert all(input_preset(text).std)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x * x", "x can only be shifted and scaled"),
        ("x + x", "x stands in it twice"),
        ("1 / x", "x can only be shifted and scaled"),
        ("127.5/128", "x is missing"),
        ("x / 0", "divides by zero"),
        ("x / [1, 0, 1]", "divides by zero"),
        ("(x - 1", r"a '\)' is missing"),
        ("x 1", "'1' is one too many"),
        ("x - [1, 2]", "holds 2 numbers"),
        ("x - [1, 2, x]", "holds numbers alone"),
        ("x / 255 bgr", "'bgr' is not part of one"),
        ("__import__('os')", "is not part of one"),
        ("x / 1e400", "too large"),
        ("(" * 5000, "longer than 200"),
        ("", "a number is missing"),
    ],
)
def test_what_is_no_formula(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        input_preset(text)


@pytest.mark.parametrize(("mean", "std"), [((0, 0, 0), (1, 0, 1)), ((0, 0, float("nan")), (1, 1, 1))])
def test_a_preset_that_cannot_be_computed(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="three finite numbers each"):
        InputPreset("mine", mean, std)  # type: ignore[arg-type]


ADDED = b"""[reparam_kit.inputs]
unit = plug_of_inputs.cli:UNIT
written = plug_of_inputs.cli:FORMULA
broken = plug_of_inputs.cli:NOTHING
nonsense = plug_of_inputs.cli:NONSENSE
"""
CODE = """
from recipes.faces import InputPreset
UNIT = InputPreset("another name", (0.0,) * 3, (255.0,) * 3)
FORMULA = "(x - 10) / [1, 2, 5], bgr"
NONSENSE = "x * x"
"""


def test_a_package_brings_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    fresh(PRESETS, monkeypatch)
    install(tmp_path, ADDED, CODE, "plug_of_inputs")
    assert input_preset("unit") == InputPreset("unit", (0.0,) * 3, (255.0,) * 3)
    assert input_preset("unit-bgr") == InputPreset("unit-bgr", (0.0,) * 3, (255.0,) * 3, bgr=True)
    pixel = torch.tensor([20.0, 30.0, 40.0]).view(1, 3, 1, 1)
    assert input_preset("written")(pixel).flatten().tolist() == [6, 10, 10]
    assert {"unit", "unit-bgr", "written", "written-bgr"} <= {preset.name for preset in all_presets()}
    with pytest.raises(InputError, match="did you mean 'unit'"):
        input_preset("unitt")
    for name, says in {"broken": "has no attribute 'NOTHING'", "nonsense": "is no formula"}.items():
        with pytest.raises(InputError, match=f"the input preset '{name}' cannot be loaded: .*{says}"):
            input_preset(name)


@pytest.mark.parametrize(
    "name", ["insightface", "insightface-bgr", "insightface-grey", "x / 255", "x / 255, grey"]
)
def test_one_channel(name: str) -> None:
    grey = torch.randint(256, (2, 1, 4, 5), dtype=torch.uint8)
    preset = input_preset(name)
    wanted = input_preset(name.removesuffix("-grey").removesuffix(", grey"))(grey.expand(-1, 3, -1, -1))[
        :, :1
    ]
    torch.testing.assert_close(preset(grey), wanted)
    if preset.grey:
        torch.testing.assert_close(preset(grey.expand(-1, 3, -1, -1)), wanted)
    assert input_preset(preset.formula).grey == preset.grey


def test_grey_is_the_luminance() -> None:
    image = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    assert float(input_preset("raw-grey")(image)) == pytest.approx(0.299 * 10 + 0.587 * 20 + 0.114 * 30)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("imagenet, grey", "did you mean 'imagenet-grey'"),
        ("imagenet-grey", "'imagenet-grey' is grey, and has other numbers"),
        ("x / [1, 2, 3], grey", "is grey, and has other numbers"),
    ],
)
def test_grey_with_numbers_for_colours_is_refused(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        input_preset(name)


def test_one_channel_and_numbers_for_colours_are_refused() -> None:
    with pytest.raises(InputError, match="'imagenet' has other numbers for red, green and blue"):
        input_preset("imagenet")(torch.zeros(1, 1, 2, 2))


def test_what_is_normalised_is_left_alone() -> None:
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(input_preset("imagenet").prepare(images), images)
    pixels = images.to(torch.uint8)
    assert torch.equal(input_preset("imagenet").prepare(pixels), input_preset("imagenet")(pixels))
