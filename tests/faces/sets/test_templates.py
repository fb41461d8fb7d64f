from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recipes.faces import Embedder, evaluate, input_preset, read_set, read_templates, tar_at_far
from recipes.faces.images.align import TEMPLATE
from recipes.faces.sets.templates import TemplateSet, is_template_set, pool_templates, score_templates
from reparam_kit import InputError

RAW = input_preset("raw")


def plain(colour: tuple[int, int, int], size: int = 4) -> np.ndarray:
    return np.full((size, size, 3), colour, np.uint8)


class Mean(nn.Module):
    """The mean colour as an embedding, so that every sum in a template can be done by hand."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def unit(vector: object) -> np.ndarray:
    vector = np.asarray(vector, float)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def save(encode) -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, image: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(image))

    return write


@pytest.fixture
def ytf(tmp_path: Path, save) -> Path:
    """Ann/0 has 103 frames whose last three, by number, are of another colour."""
    frames = {
        "Ann/0": [(f"0.{i}.jpg", (200, 0, 0) if i < 100 else (0, 0, 200)) for i in range(103)],
        "Ann/3": [("3.1.jpg", (100, 0, 0)), ("3.2.jpg", (0, 100, 0))],
        "Bo/1": [("1.7.png", (0, 50, 50))],
    }
    for video, files in frames.items():
        for name, colour in files:
            save(tmp_path / "aligned_images_DB" / video / f"aligned_detect_{name}", plain(colour))
    (tmp_path / "splits.txt").write_text(
        "split number, pair number, first name, second name, is same\n"
        "1, 1, Ann/0, Ann/3, 1\n1, 2, Ann/0, Bo/1, 0\n2, 1, Ann/3, Ann/0, 1\n2, 2, Bo/1, Ann/3, 0\n"
    )
    return tmp_path / "splits.txt"


def test_ytf_is_the_mean_of_the_first_hundred_frames(ytf: Path) -> None:
    templates = read_templates(ytf)
    assert len(templates.files) == 100 + 2 + 1
    assert templates.files[10].name == "aligned_detect_0.10.jpg"
    pooled = pool_templates(Embedder(Mean(), RAW, 7), templates)
    wanted = np.stack([unit([1, 0, 0]), unit([1, 1, 0]), unit([0, 1, 1])])
    np.testing.assert_allclose(pooled, wanted, atol=1e-6)
    half = 0.5**0.5
    np.testing.assert_allclose(score_templates(pooled, templates), [half, 0, half, 0.5], atol=1e-6)
    assert templates.same.tolist() == [True, False, True, False]
    assert templates.folds is not None
    assert templates.folds.tolist() == [1, 1, 2, 2]


def test_ytf_evaluation(ytf: Path, tmp_path: Path) -> None:
    (tmp_path / "aligned_images_DB").rename(tmp_path / "crops")
    templates = read_set(ytf, tmp_path / "crops")
    assert isinstance(templates, TemplateSet)
    result = evaluate(Mean(), templates, "raw", bootstrap=10)
    assert (result.pairs, result.genuine, result.folds, result.accuracy) == (4, 2, 2, 0.75)
    assert list(result.tar_at_far) == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    assert result["accuracy"].interval == (0.75, 0.75)  # one pair of a kind in a fold: nothing to draw


IJB = {
    "1.jpg": (5, 70, (100, 0, 0), 1.0),  # a video of two frames
    "2.jpg": (5, 70, (0, 100, 0), 0.5),
    "3.jpg": (5, 71, (0, 0, 200), 0.25),  # and a picture
    "4.jpg": (9, 70, (100, 100, 0), 1.0),  # the media of another template is another, whatever its number
    "5.jpg": (6, 80, (0, 10, 0), 1.0),
}


@pytest.fixture
def ijb(tmp_path: Path, save) -> Path:
    root = tmp_path / "IJBX"
    meta = root / "meta"
    meta.mkdir(parents=True)
    points = " ".join(f"{v:.4f}" for v in TEMPLATE.ravel())
    rows = list(IJB.items())
    (meta / "ijbx_face_tid_mid.txt").write_text("".join(f"{n} {t} {m}\n" for n, (t, m, _, _) in rows))
    (meta / "ijbx_template_pair_label.txt").write_text("5 9 1\n5 6 0\n9 6 0\n6 5 1\n")
    (meta / "ijbx_name_5pts_score.txt").write_text("".join(f"{n} {points} {s}\n" for n, (_, _, _, s) in rows))
    for name, (_, _, colour, _) in IJB.items():
        save(root / "loose_crop" / name, plain(colour, 112))
        save(tmp_path / "crops" / name, plain(colour))
    return root


@pytest.mark.parametrize("batch", [1, 2, 64])
@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("crops", [False, True])
def test_ijb_is_the_sum_of_media_means(
    ijb: Path, tmp_path: Path, crops: bool, scored: bool, batch: int
) -> None:
    templates = read_templates(ijb, tmp_path / "crops" if crops else None, scored)
    assert (templates.points is None) == crops
    pooled = pool_templates(Embedder(Mean(), RAW, batch), templates)
    five = [50, 25, 50] if scored else [50, 50, 200]
    nine, six = unit([1, 1, 0]), unit([0, 1, 0])
    # Templates are counted in ascending order of their numbers: 5, 6, 9.
    np.testing.assert_allclose(pooled, [unit(five), six, nine], atol=1e-4)
    wanted = [unit(five) @ nine, unit(five) @ six, nine @ six, six @ unit(five)]
    np.testing.assert_allclose(score_templates(pooled, templates), wanted, atol=1e-4)
    assert templates.same.tolist() == [True, False, False, True]


def test_flip_adds_the_mirrored_image(ijb: Path, tmp_path: Path, save) -> None:
    class Left(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[..., :1].mean((2, 3))

    for name, (_, _, colour, _) in IJB.items():
        image = plain(colour)
        image[:, -1] = (0, 0, 100)
        save(tmp_path / "crops" / name, image)
    templates = read_templates(ijb, tmp_path / "crops")
    pooled = pool_templates(Embedder(Left(), RAW), templates, flip=True)
    np.testing.assert_allclose(pooled[2], unit([100, 100, 100]), atol=1e-6)


def test_any_embedding_size(ijb: Path, tmp_path: Path) -> None:
    templates = read_templates(ijb, tmp_path / "crops")
    assert pool_templates(Embedder(nn.Flatten(), RAW), templates).shape == (3, 3 * 4 * 4)


def synthetic(template_count: int, images_each: int, pairs: int) -> tuple[TemplateSet, np.ndarray]:
    random = np.random.default_rng(0)
    template = random.permutation(np.repeat(np.arange(template_count), images_each))
    first, second = random.integers(template_count, size=(2, pairs))
    templates = TemplateSet(
        files=[Path(str(i)) for i in range(len(template))],
        template=template,
        media=random.integers(5, size=len(template)),
        weights=None,
        points=None,
        first=first,
        second=second,
        same=first % 50 == second % 50,
        folds=None,
    )
    return templates, random.normal(size=(len(template), 16)).astype(np.float32)


class Table(Embedder):
    """Embeddings out of a table, for sets whose images nobody needs to see."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = torch.from_numpy(table)

    def batches(self, images, flip=False):
        yield from torch.split(self.table, 64)


def test_against_the_definition_at_scale() -> None:
    templates, table = synthetic(200, 9, 40_000)
    pooled = pool_templates(Table(table), templates)
    for t in range(0, 200, 17):
        mine = templates.template == t
        media = templates.media[mine]
        total = sum(table[mine][media == m].mean(0) for m in np.unique(media))
        np.testing.assert_allclose(pooled[t], unit(total), atol=1e-5)
    scores = score_templates(pooled, templates)
    wanted = np.sum(pooled[templates.first].astype(float) * pooled[templates.second], axis=1)
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
    assert tar_at_far(scores, templates.same, 1e-4) >= 0.2  # a template matches itself


def test_memory_does_not_grow_with_the_images() -> None:
    def peak(images_each: int) -> int:
        templates, _ = synthetic(50, images_each, 10)
        row = torch.ones(64, 256)

        class Stream(Embedder):
            def __init__(self) -> None:
                pass

            def batches(self, images, flip=False):
                for start in range(0, len(templates.files), 64):
                    yield row[: len(templates.files) - start]

        tracemalloc.start()
        try:
            pool_templates(Stream(), templates)
            return tracemalloc.get_traced_memory()[1] // len(templates.files)
        finally:
            tracemalloc.stop()

    assert peak(400) < 200  # bytes an image, where an embedding has 1024


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("face_tid_mid", "1.jpg 5\n", r"tid_mid\.txt:1 is not `image template media`"),
        ("face_tid_mid", "1.jpg a 7\n", r"tid_mid\.txt:1 has 'a' where a whole number belongs"),
        ("template_pair_label", "", r"pair_label\.txt does not hold lines of"),
        ("template_pair_label", "5 9\n", r"pair_label\.txt does not hold lines of"),
        ("template_pair_label", "5 9 2\n", r"pair_label\.txt does not hold lines of"),
        ("template_pair_label", "5 x 1\n", r"pair_label\.txt does not hold lines of"),
        ("template_pair_label", "5 9 1\n5 77 0\n", r"pair 2 names the templates \[5, 77\]"),
        ("name_5pts_score", "1.jpg 1 2 3\n", r"5pts_score\.txt has 1 lines for 5 images"),
        ("name_5pts_score", "x.jpg 1 2\n" * 5, r"5pts_score\.txt:1 is not `1\.jpg x1 y1"),
        (
            "name_5pts_score",
            "".join(f"{n}.jpg {'a ' * 10}1\n" for n in range(1, 6)),
            r"5pts_score\.txt:1: could not convert",
        ),
    ],
)
def test_damaged_ijb(ijb: Path, file: str, text: str, message: str) -> None:
    (ijb / "meta" / f"ijbx_{file}.txt").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_templates(ijb)
    assert "\n" not in str(caught.value)


def test_landmarks_are_needed_for_loose_crops_and_scores_only(ijb: Path, tmp_path: Path) -> None:
    (ijb / "meta" / "ijbx_name_5pts_score.txt").unlink()
    for images, scored in ((None, False), (tmp_path / "crops", True)):
        with pytest.raises(InputError, match=r"has 0 lists \*_name_5pts_score\.txt"):
            read_templates(ijb, images, scored)
    assert len(read_templates(ijb, tmp_path / "crops")) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("header, a, b, c, d\n", "has a header and no pair"),
        ("h,a,b,c,d\n1, 1, Ann/0, Ann/3\n", r"splits\.txt:2 is not `split, pair"),
        ("h,a,b,c,d\n1, 1, Ann/0, Ann/3, 2\n", r"splits\.txt:2 is not `split, pair"),
        ("h,a,b,c,d\nx, 1, Ann/0, Ann/3, 1\n", r"splits\.txt:2 has 'x' where"),
        ("h,a,b,c,d\n1, 1, Ann/0, Ann/9, 1\n", r"the video .*Ann/9 has no frame"),
    ],
)
def test_damaged_ytf(ytf: Path, text: str, message: str) -> None:
    ytf.write_text(text)
    with pytest.raises(InputError, match=message):
        read_templates(ytf)


def test_unusable_embeddings_and_images(ijb: Path, tmp_path: Path, save) -> None:
    crops = tmp_path / "crops"
    save(crops / "5.jpg", plain((0, 0, 0)))
    with pytest.raises(
        InputError, match=r"1 of 3 templates is zero or not finite, among them that of .*5\.jpg"
    ):
        pool_templates(Embedder(Mean(), RAW), read_templates(ijb, crops))
    (crops / "5.jpg").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"5\.jpg is not a JPEG, PNG"):
        pool_templates(Embedder(Mean(), RAW), read_templates(ijb, crops))
    (crops / "5.jpg").unlink()
    with pytest.raises(InputError, match=r"5\.jpg: no such file"):
        pool_templates(Embedder(Mean(), RAW), read_templates(ijb, crops))


def test_what_is_a_template_set(ytf: Path, ijb: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("10 300\n")
    (tmp_path / "set.bin").write_bytes(b"\x80\x04\xff")
    (tmp_path / "empty").touch()
    assert is_template_set(ytf)
    assert is_template_set(ijb)
    assert is_template_set(ijb / "meta")
    for other in ("pairs.txt", "set.bin", "empty", "no.txt", "crops"):
        assert not is_template_set(tmp_path / other)
    with pytest.raises(InputError, match="is no folder of an IJB set"):
        read_templates(tmp_path / "crops")
    for path in (ytf, tmp_path / "pairs.txt"):
        with pytest.raises(InputError, match="no detector scores"):
            read_set(path, None, True)
