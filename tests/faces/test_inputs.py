from __future__ import annotations

import pytest
import torch

from recipes.faces import input_preset
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
        ("xyz", "known presets: imagenet"),
    ],
)
def test_unknown(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        input_preset(name)
