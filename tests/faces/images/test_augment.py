from __future__ import annotations

import pytest
import torch

from recipes.faces import Augmentation
from reparam_kit import InputError

NONE = {"flip": 0.0, "affine": 0.0, "crop": 0.0, "colour": 0.0, "low_resolution": 0.0, "occlusion": 0.0}


def only(**changes: float) -> Augmentation:
    return Augmentation(**{**NONE, **changes})


@pytest.fixture
def image() -> torch.Tensor:
    """Smooth, bright, and different left and right."""
    ramp = torch.linspace(40, 240, 32)
    return torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32), 255 - ramp.expand(32, 32)]).byte()


def test_the_seed_alone_decides(image: torch.Tensor) -> None:
    augment = Augmentation(affine=0.5, crop=0.5, colour=0.5, low_resolution=0.5, occlusion=0.5)
    kept = image.clone()
    before = torch.get_rng_state()
    first = [augment(image, seed) for seed in range(20)]
    torch.rand(7)
    again = [augment(image, seed) for seed in reversed(range(20))]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert len({tuple(a.flatten().tolist()) for a in first}) > 15
    assert torch.equal(image, kept)
    torch.set_rng_state(before)
    for changed in first:
        assert changed.dtype == torch.uint8
        assert changed.shape == image.shape


def test_global_state_is_left_alone(image: torch.Tensor) -> None:
    before = torch.get_rng_state()
    Augmentation(1, 1, 1, 1, 1, 1)(image, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_is_each_image_by_its_own_seed(image: torch.Tensor) -> None:
    augment = Augmentation()
    images = torch.stack([image, image.flip(1), image.flip(2)])
    changed = augment.batch(images, [5, 9, 5])
    for i, seed in enumerate([5, 9, 5]):
        assert torch.equal(changed[i], augment(images[i], seed))
    with pytest.raises(ValueError, match="shorter"):
        augment.batch(images, [5, 9])


@pytest.mark.parametrize("name", list(NONE))
def test_probability_is_kept(name: str, image: torch.Tensor) -> None:
    changed = sum(not torch.equal(only(**{name: 0.3})(image, seed), image) for seed in range(300))
    assert 60 < changed < 120
    assert torch.equal(only()(image, 0), image)


def test_flip(image: torch.Tensor) -> None:
    assert torch.equal(only(flip=1)(image, 0), image.flip(2))


def test_an_affine_move_is_a_small_one_and_every_way() -> None:
    """Points far from the middle of an image that is wider than high, found again by their colour."""
    height, width = 120, 160
    places = ((-40.0, -20.0), (40.0, -20.0), (-40.0, 20.0))  # right of the middle, below it
    across, down = torch.arange(width) - (width - 1) / 2, torch.arange(height)[:, None] - (height - 1) / 2
    dots = torch.stack([255 * torch.exp(-((across - x) ** 2 + (down - y) ** 2) / 18) for x, y in places])
    found = []
    for seed in range(60):
        moved = only(affine=1)(dots.round().byte(), seed).double()
        total = moved.sum((1, 2))
        points = torch.stack([(moved * across).sum((1, 2)) / total, (moved * down).sum((1, 2)) / total], 1)
        right, lower = points[1] - points[0], points[2] - points[0]
        turn = torch.rad2deg(torch.atan2(right[1], right[0]))
        assert float(right @ lower) == pytest.approx(0, abs=30)  # still at a right angle,
        scales = [float(right.norm()) / 80, float(lower.norm()) / 40]
        assert scales[0] == pytest.approx(scales[1], abs=0.02)  # and scaled alike
        middle = (points[1] + points[2]) / 2
        found.append([float(turn), scales[0], float(middle[0]) / width, float(middle[1]) / height])
    most = torch.tensor([5.3, 0.07, 0.03, 0.03])
    away = torch.tensor(found) - torch.tensor([0, 1.0, 0, 0])
    assert (away.abs() <= most).all()
    assert (away.amax(0) > most / 2).all()
    assert (away.amin(0) < -most / 2).all()


def test_crop_keeps_a_rectangle_where_it_is(image: torch.Tensor) -> None:
    shares = []
    for seed in range(100):
        cropped = only(crop=1)(image, seed)
        inside = cropped.amax(0) > 0
        assert torch.equal(cropped[:, inside], image[:, inside])
        rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
        height, width = (int(span.max() - span.min()) + 1 for span in (rows, columns))
        assert int(inside.sum()) == height * width
        shares.append(height * width / 32**2)
    assert min(shares) < 0.3
    assert max(shares) > 0.85


def test_occlusion_leaves_the_rest(image: torch.Tensor) -> None:
    for seed in range(50):
        changed = (only(occlusion=1)(image, seed) != image).any(0)
        assert 0 < changed.float().mean() < 0.4


def test_low_resolution_loses_detail_and_not_light() -> None:
    checks = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255).byte().expand(3, 32, 32)
    spreads = []
    for seed in range(30):
        blurred = only(low_resolution=1)(checks, seed).float()
        assert blurred.mean() == pytest.approx(127.5, abs=6)
        spreads.append(float(blurred.std()))
    assert min(spreads) < 10
    flat = torch.full((3, 32, 32), 77, dtype=torch.uint8)
    assert torch.equal(only(low_resolution=1)(flat, 0), flat)


def test_colour_changes_light_and_not_places(image: torch.Tensor) -> None:
    means = []
    for seed in range(60):
        changed = only(colour=1)(image, seed)
        assert torch.equal(changed[:, 5, :].float().diff().sign().abs().sum() > 0, torch.tensor(True))
        means.append(float(changed.float().mean()))
    assert min(means) < 100
    assert max(means) > 170
    grey = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    for seed in range(10):
        changed = only(colour=1)(grey, seed)
        assert 50 <= int(changed.min()) == int(changed.max()) <= 150


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_not_a_probability(probability: float) -> None:
    with pytest.raises(InputError, match=r"crop=.* is not a probability"):
        Augmentation(crop=probability)


def test_real_sizes_and_one_pixel() -> None:
    for size in ((1, 1), (3, 5), (112, 96)):
        image = torch.randint(256, (3, *size), dtype=torch.uint8)
        for seed in range(5):
            assert Augmentation(1, 1, 1, 1, 1, 1)(image, seed).shape == image.shape
