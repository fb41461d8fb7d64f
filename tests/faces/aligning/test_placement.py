"""A net that wants a blob in the middle says how far from it the blobs of images are; others say nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx_text import write
from PIL import Image
from torch import Tensor, nn

from recipes.faces import Embedder, PairSet, PairsJudge, find_placement, input_preset
from recipes.faces.aligning.placement import moved
from recipes.faces.crops import faces as command
from recipes.faces.judging.placing import judged_placement

SIDE = 112
_LINE = np.exp(-(((np.arange(SIDE) - 55.5) / 10) ** 2))
BLOB = np.outer(_LINE, _LINE).astype(np.float32)
# The nearer the blob of the first channel is to the middle, the more it tells of the other two, and the less of all
# alike.
NET = """net (float[N,3,112,112] x) => (float[N,98] y) {
    face = Slice (x, zero, one, one)
    rest = Slice (x, one, three, one)
    seen0 = Mul (face, blob)
    seen1 = ReduceSum <keepdims = 1> (seen0, planes)
    seen = Mul (seen1, seen1)
    most = AveragePool <kernel_shape = [16,16], strides = [16,16]> (rest)
    own0 = Sub (most, middle)
    own1 = Mul (own0, seen)
    own = Flatten (own1)
    unseen = Sub (unit, seen)
    alike0 = Mul (unseen, gain)
    alike = Flatten (alike0)
    y = Add (own, alike)
}"""
WEIGHTS = {
    "zero": np.int64([0]), "one": np.int64([1]), "three": np.int64([3]), "planes": np.int64([2, 3]),
    "blob": BLOB[None, None] / (BLOB**2).sum() / 255, "middle": np.float32([127.5]), "unit": np.float32([1]),
    "gain": np.float32([40]),
}  # fmt: skip


def crops(count: int = 16, seed: int = 0) -> Tensor:
    """Draw images of different people, uint8 ``[N, 3, 112, 112]``, aligned."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, 256, (count, 2, 7, 7)).repeat(16, axis=2).repeat(16, axis=3)
    face = np.broadcast_to(BLOB * 255, (count, 1, SIDE, SIDE))
    return torch.from_numpy(np.concatenate([face, own], axis=1).astype(np.uint8))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    path = tmp_path_factory.mktemp("net") / "net.onnx"
    write(path, NET, WEIGHTS)
    return Embedder(path, input_preset("raw"))


@pytest.mark.parametrize("seed", range(3))
def test_aligned_faces_are_told_so(embedder: Embedder, seed: int) -> None:
    found = find_placement(embedder, list(crops(16 * (seed + 1), seed)))
    assert found is not None
    assert found.aligned
    assert math.hypot(found.right, found.down) < 1
    assert str(found).startswith("the faces lie where the net expects them")


@pytest.mark.parametrize(("right", "down"), [(5, 0), (0, -5), (-10, 6)])
def test_moved_faces_are_told_by_how_far(embedder: Embedder, right: int, down: int) -> None:
    found = find_placement(embedder, list(moved(crops(), right / SIDE, down / SIDE, 0.0)))
    assert found is not None
    assert not found.aligned
    assert (found.right, found.down) == (pytest.approx(right, abs=2), pytest.approx(down, abs=2))
    assert ("too far right" if right > 0 else "too far left") in str(found) or not right
    assert ("too low" if down > 0 else "too high") in str(found) or not down
    assert found.similarity[1] < found.similarity[0]


def test_small_faces_are_told(embedder: Embedder) -> None:
    found = find_placement(embedder, list(moved(crops(), 0, 0, math.log(0.8))))
    assert found is not None
    assert not found.aligned
    assert "too small" in str(found)


def test_images_are_moved_as_said_and_kept_where_they_are() -> None:
    images = crops(2)
    assert moved(images, 0, 0, 0) is images
    there = moved(images, 5 / SIDE, -3 / SIDE, 0.0)
    assert there.dtype == torch.uint8
    assert torch.equal(there[..., :-3, 5:], images[..., 3:, :-5])
    larger = moved(images.float(), 0, 0, math.log(2))[:, 0]
    assert larger.sum() > 3 * images[:, 0].sum()


@pytest.mark.parametrize(
    "images",
    [crops(15), crops()[..., :80, :80], crops()[..., :100], crops(1).expand(16, -1, -1, -1)],
    ids=["few", "small", "no squares", "one person"],
)
def test_where_nothing_can_be_known_nothing_is_said(embedder: Embedder, images: Tensor) -> None:
    found = find_placement(Embedder(Indifferent(), input_preset("raw")), list(images))
    assert found is None or found.aligned
    if len(images) == 16 and images.shape[2:] == (112, 112):
        there = moved(images, 5 / SIDE, 0.0, 0.0)
        assert find_placement(embedder, list(there)) is None
        labelled = [(image, 7) for image in images]  # of one label no pair is of two people
        assert find_placement(embedder, labelled) is None


class Indifferent(nn.Module):
    """Says of an image what colours it has, wherever they are."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float().quantile(torch.linspace(0, 1, 9), dim=3).mean(3).permute(1, 2, 0).flatten(1) - 100  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(2))
def test_nets_that_know_no_faces_raise_no_alarm(seed: int) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=4), nn.ReLU(), nn.Flatten(),
        nn.LazyLinear(32),
    )  # fmt: skip
    net(torch.zeros(1, 3, SIDE, SIDE))
    found = find_placement(Embedder(net, input_preset("insightface")), list(crops(seed=seed)))
    assert found is None or found.aligned


def png(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def test_the_faces_of_a_judge_and_the_command(tmp_path: Path, embedder: Embedder) -> None:
    images = moved(crops(20), 0.0, 6 / SIDE, 0.0)
    folder = tmp_path / "crops"
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(png(image)).save(folder / f"{number}.png")
    encoded = [path.read_bytes() for path in sorted(folder.iterdir())]
    found = judged_placement(embedder, PairsJudge(PairSet(encoded, np.arange(10) % 2 == 0)))
    assert found is not None
    assert found.down == pytest.approx(6, abs=1)
    asked = ["check", str(folder), "--model", str(embedder.model), "--input", "raw"]
    done = CliRunner().invoke(command, asked)
    assert done.exit_code == 1, done.output
    assert done.output.startswith(f"{folder}: the faces are ")
    said = json.loads(CliRunner().invoke(command, [*asked, "--json"]).output)
    assert said["aligned"] is False
    assert said["down"] == pytest.approx(6, abs=1)
