"""What users have for data goes through the whole recipe, and trains the same net whatever it is wrapped in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from recipes.faces import ClassesJudge, PeopleJudge, RetrievalJudge, input_preset
from recipes.faces.judging.wanted import try_inputs
from recipes.tsmr import Augment, Stage, TSMRConfig, apply_tsmr
from reparam_kit import InputError

CONFIG = TSMRConfig(stages=(Stage(epochs=1, cosine=1.0, margin=0.1),), batch_size=4, lr=1e-3, block=None)
LABELS = torch.arange(12) % 3
RANDOM = torch.Generator().manual_seed(0)
PATTERNS = torch.randint(200, (3, 3, 8, 8), generator=RANDOM)
PIXELS = (PATTERNS[LABELS] + torch.randint(56, (12, 3, 8, 8), generator=RANDOM)).to(torch.uint8)
GREYS = PIXELS[:, :1].contiguous()


def net(channels: int, size: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, size)
    )


def trained(data: Any, channels: int = 3, preset: str = "insightface", **options: Any) -> dict[str, Tensor]:
    config = TSMRConfig(**{**vars(CONFIG), "student_input": preset, "teacher_input": preset})
    result = apply_tsmr(net(channels, 6, 0), net(channels, 10, 1), data, config=config, **options)
    assert result.report.images == 12
    return result.model.state_dict()


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())


WRAPPED: dict[str, Callable[[Tensor], Any]] = {
    "pairs": lambda images: list(zip(images, LABELS.tolist(), strict=True)),
    "dataset of tensors": lambda images: TensorDataset(images, LABELS),
    "dicts": lambda images: [{"image": i, "label": n.numpy()} for i, n in zip(images, LABELS, strict=True)],
    "PIL images": lambda images: [(pil(i), np.int64(n)) for i, n in zip(images, LABELS, strict=True)],
    "arrays": lambda images: [
        (i.permute(1, 2, 0).numpy(), n, 5) for i, n in zip(images, LABELS, strict=True)
    ],
}


@pytest.fixture(scope="module")
def by_channels() -> dict[int, dict[str, Tensor]]:
    return {
        channels: trained(
            [(image, int(n), i) for i, (image, n) in enumerate(zip(images, LABELS, strict=True))], channels
        )
        for channels, images in ((3, PIXELS), (1, GREYS))
    }


def assert_same(weights: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("wrap", "channels"), [("dataset of tensors", 1), ("dicts", 1), ("arrays", 1), ("PIL images", 3)]
)
def test_the_same_images_in_any_wrapping_train_the_same_net(
    wrap: str, channels: int, by_channels: dict[int, dict[str, Tensor]]
) -> None:
    assert_same(trained(WRAPPED[wrap](PIXELS if channels == 3 else GREYS), channels), by_channels[channels])


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_images_are_left_alone_which_is_said_once(
    channels: int, by_channels: dict[int, dict[str, Tensor]], caplog: pytest.LogCaptureFixture
) -> None:
    images = input_preset("insightface")(PIXELS if channels == 3 else GREYS)
    with caplog.at_level(logging.WARNING, "recipes.tsmr"):
        weights = trained(TensorDataset(images, LABELS), channels, "raw")
    assert_same(weights, by_channels[channels])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("the training images are floating point (-0.")
    assert "presets are not applied" in line


def test_a_preset_makes_one_channel_of_rgb_when_asked(by_channels: dict[int, dict[str, Tensor]]) -> None:
    data = TensorDataset(GREYS.expand(-1, 3, -1, -1), LABELS)
    assert_same(trained(data, 1, "insightface-grey"), by_channels[1])


def test_images_alone_train_where_no_loss_needs_labels() -> None:
    config = TSMRConfig(stages=(Stage(epochs=1, cosine=1.0),), batch_size=4)
    assert apply_tsmr(net(1, 6, 0), net(1, 10, 1), GREYS.float() / 255, config=config).report.images == 12
    with pytest.raises(InputError, match="need labels"):
        trained(GREYS, 1)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_judges_take_them_too(wrap: Callable[[Tensor], Any], normalised: bool) -> None:
    if normalised and wrap is WRAPPED["PIL images"]:
        pytest.skip("PIL images of floats are not read")
    images = input_preset("insightface")(GREYS) if normalised else GREYS
    model, data = net(1, 6, 0), wrap(images)
    judges = ClassesJudge(data), RetrievalJudge(data, data), PeopleJudge(data)
    greys = WRAPPED["pairs"](GREYS)
    plain = ClassesJudge(greys), RetrievalJudge(greys, greys), PeopleJudge(greys)
    for judge, usual in zip(judges, plain, strict=True):
        found, wanted = judge.judge(model).to_json(), usual.judge(model).to_json()
        assert found.pop("input") == (
            "none: the images are normalised already" if normalised else "insightface"
        )
        assert wanted.pop("input") == "insightface"
        assert found == wanted
        assert isinstance(judge.identity(), str)
    tried = try_inputs(model, judges[0], input_preset("raw"))
    usual = {"insightface", "insightface-bgr", "raw", "raw-bgr", "unit", "unit-bgr"}
    assert (None if normalised else usual) == (tried and set(tried.verdicts))
    if wrap is WRAPPED["dicts"] and normalised:
        assert trained(data, 1, val=judges)


REFUSED: dict[str, tuple[Any, int, str, str]] = {
    "a size of its own": (
        [PIXELS[0]] * 11 + [PIXELS[0, :, 1:]],
        3,
        "raw",
        r"image 11 is torch.uint8 \[3, 7, 8\]; all",
    ),
    "channels of its own": (
        [PIXELS[0]] * 11 + [GREYS[0]],
        3,
        "raw",
        r"image 11 is torch.uint8 \[1, 8, 8\]; all",
    ),
    "greys for RGB": (GREYS, 3, "raw", "fails on images .*: repeat the channel"),
    "RGB for greys": (PIXELS, 1, "raw", "fails on images .*: an input such as 'insightface-grey'"),
    "a preset of colours": (GREYS, 1, "imagenet", "'imagenet' has other numbers for red, green and blue"),
    "text": (["text"] * 12, 3, "raw", "image 0 is str"),
    "a label of text": ([(image, "Ann") for image in PIXELS], 3, "raw", "image 0 has the label 'Ann'"),
    "a loader": (DataLoader(PIXELS), 3, "raw", "data is of type DataLoader: .*: the dataset of the loader"),
    "a dict": ({"image": PIXELS}, 3, "raw", "data is of type dict"),
}


@pytest.mark.parametrize(("data", "channels", "preset", "says"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_one_line(data: Any, channels: int, preset: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        trained(data, channels, preset)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"augment": Augment(crop=0.5)}, "augment=crop"),
        ({"augment": Augment(colour=0.5, low_resolution=0.5)}, "augment=colour"),
        ({"stages": (Stage(epochs=1, cosine=1.0, perturbed=1.0),)}, "the loss 'perturbed' moves pixels"),
    ],
)
def test_what_means_pixels_is_refused_for_normalised_images(choices: dict[str, Any], says: str) -> None:
    config = TSMRConfig(**{**vars(CONFIG), **choices})
    with pytest.raises(InputError, match=f"{says}.*already normalised"):
        apply_tsmr(net(3, 6, 0), net(3, 10, 1), TensorDataset(PIXELS.float(), LABELS), config=config)


@pytest.mark.parametrize("images", [GREYS, PIXELS.float() / 255], ids=["one channel", "normalised"])
def test_what_else_changes_images_works(images: Tensor) -> None:
    pixels = images.dtype == torch.uint8
    augment = Augment(1, 1, 1, 1, 1) if pixels else Augment(affine=1.0, low_resolution=1.0)
    stage = Stage(epochs=1, cosine=1.0, perturbed=0.1 if pixels else 0.0)
    config = TSMRConfig(stages=(stage,), batch_size=4, augment=augment)
    channels = images.shape[1]
    result = apply_tsmr(net(channels, 6, 0), net(channels, 10, 1), TensorDataset(images), config=config)
    assert all(map(np.isfinite, result.report.epochs[0].losses.values()))
