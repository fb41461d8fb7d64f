from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from recipes.faces import FaceRecords, RecordFile, decode_image, write_records
from reparam_kit import InputError


def test_png_is_exact_and_jpeg_is_close(pictures, encode) -> None:
    smooth = np.linspace(0, 255, 16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    assert np.array_equal(decode_image(encode(smooth), "x"), smooth)
    assert np.abs(decode_image(encode(smooth, "JPEG"), "x").astype(int) - smooth).max() < 40


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    data = io.BytesIO()
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(data, "PNG")
    image = decode_image(data.getvalue(), "x")
    assert image.dtype == np.uint8
    assert image.shape == (4, 5, 3)
    assert (image == 255).all()


def test_channels_are_rgb(encode) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    assert decode_image(encode(red), "x")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("damage", ["empty", "junk", "cut png", "cut jpeg", "gif"])
def test_undecodable_names_the_record(damage: str, pictures, encode) -> None:
    image = pictures(1, 32)[0]
    gif = io.BytesIO()
    Image.fromarray(image).save(gif, "GIF")
    data = {
        "empty": b"",
        "junk": b"not an image",
        "cut png": encode(image)[:200],
        "cut jpeg": encode(image, "JPEG")[:-300],
        "gif": gif.getvalue(),
    }[damage]
    with pytest.raises(InputError, match=r"record 17 at byte 40 is (not a JPEG, PNG|damaged|empty)"):
        decode_image(data, "a.rec: record 17 at byte 40")


@pytest.fixture
def records(tmp_path: Path, pictures, encode) -> tuple[Path, list[np.ndarray]]:
    images = pictures(5)
    write_records(tmp_path / "a.rec", list(zip([3, 8, 8, 70, 70], map(encode, images), strict=True)))
    return tmp_path / "a.rec", images


@pytest.mark.parametrize("opened", [False, True])
def test_dataset(records: tuple[Path, list[np.ndarray]], opened: bool) -> None:
    path, images = records
    faces = FaceRecords(RecordFile(path) if opened else path)
    assert (len(faces), faces.num_identities) == (5, 3)
    for i, (image, label, index) in enumerate(faces):
        assert image.dtype == torch.uint8
        assert image.is_contiguous()
        assert np.array_equal(image.permute(1, 2, 0).numpy(), images[i])
        assert (label, index) == ([0, 1, 1, 2, 2][i], i)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(records: tuple[Path, list[np.ndarray]], workers: int) -> None:
    path, images = records
    batches = list(DataLoader(FaceRecords(path), batch_size=2, num_workers=workers))
    assert torch.equal(torch.cat([b[1] for b in batches]), torch.tensor([0, 1, 1, 2, 2]))
    assert np.array_equal(torch.cat([b[0] for b in batches]).permute(0, 2, 3, 1).numpy(), np.stack(images))


def test_undecodable_item_names_its_record(tmp_path: Path, pictures, encode) -> None:
    write_records(tmp_path / "a.rec", [(0, encode(pictures(1)[0])), (1, b"junk")])
    faces = FaceRecords(tmp_path / "a.rec")
    with pytest.raises(InputError, match=r"a\.rec: record 2 at byte \d+ is not a JPEG, PNG"):
        faces[1]


def test_label_that_its_range_does_not_begin_with(records: tuple[Path, list[np.ndarray]]) -> None:
    path, _ = records
    data = bytearray(path.read_bytes())
    at = int(path.with_suffix(".idx").read_text().splitlines()[3].split("\t")[1])
    data[at + 12 : at + 16] = np.float32(9).tobytes()
    path.write_bytes(data)
    faces = FaceRecords(path)
    with pytest.raises(InputError, match=r"record 3 at byte \d+ has the label 9"):
        faces[2]


def test_real_file(shared_faces: Path) -> None:
    faces = FaceRecords(shared_faces / "train.rec")
    assert (len(faces), faces.num_identities) == (6922, 3554)
    image, label, index = faces[6921]
    assert image.shape == (3, 112, 112)
    assert (label, index) == (3553, 6921)
