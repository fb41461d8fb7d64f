from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from recipes.faces import FaceFiles, FaceParts, FaceRecords, RecordFile, read_faces, write_records
from recipes.faces.sets.searches import read_shots
from reparam_kit import InputError


@pytest.fixture
def images(pictures) -> list[np.ndarray]:
    return pictures(6)


def saved(path: Path, image: np.ndarray, encode, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, kind))


@pytest.fixture
def people(tmp_path: Path, images: list[np.ndarray], encode) -> Path:
    """In the order of the dataset: two people with two images each, and one with one."""
    root = tmp_path / "people"
    places = ["Ann/b.png", "Ann/film 2/1.JPG", "Bea/1.jpeg", "Bea/2.png", "cy/x/y/1.png"]
    for place, image in zip(places, images, strict=False):
        saved(root / place, image, encode)
    (root / "Bea" / "notes.txt").write_text("no image")
    (root / "Bea" / "._2.png").write_bytes(b"what another system left")
    (root / "empty").mkdir()
    return root


def contents(faces) -> list[tuple[list, int, int]]:
    return [(image.permute(1, 2, 0).tolist(), label, index) for image, label, index in faces]


def test_folder_of_people(people: Path, images: list[np.ndarray]) -> None:
    faces = read_faces(people)
    assert isinstance(faces, FaceFiles)
    assert (len(faces), faces.num_identities) == (5, 3)
    labels = [0, 0, 1, 1, 2]
    assert contents(faces) == [(images[i].tolist(), labels[i], i) for i in range(5)]
    image, _, _ = faces[4]
    assert image.dtype == torch.uint8
    assert image.is_contiguous()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader_of_a_folder(people: Path, images: list[np.ndarray], workers: int) -> None:
    batches = list(DataLoader(read_faces(people), batch_size=2, num_workers=workers))
    assert torch.cat([b[1] for b in batches]).tolist() == [0, 0, 1, 1, 2]
    pixels = torch.cat([b[0] for b in batches]).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels, np.stack(images[:5]))


def test_pickled_to_a_worker(people: Path) -> None:
    faces = read_faces(people, size=4)
    assert contents(pickle.loads(pickle.dumps(faces))) == contents(faces)


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [(["7", "-3", "7", "10", "7"], [0, -1, 0, 1, 0]), (["b", "a", "c", "10", "9"], [3, 2, 4, 0, 1])],
    ids=["numbers", "names"],
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_text_list(people: Path, elsewhere: bool, labels: list[str], wanted: list[int]) -> None:
    names = ["Ann/b.png", "Ann/film 2/1.JPG", "Bea/1.jpeg", "Bea/2.png", "cy/x/y/1.png"]
    text = "".join(f"{name}\t{label}\n\n" for name, label in zip(names, labels, strict=True))
    listed = (people.parent if elsewhere else people) / "list.txt"
    listed.write_text(text)
    faces = read_faces(listed, people if elsewhere else None)
    assert [label for _, label, _ in faces] == wanted
    assert [pixels for pixels, _, _ in contents(faces)] == [p for p, _, _ in contents(read_faces(people))]


def test_rec_and_folder_with_one(tmp_path: Path, images: list[np.ndarray], encode) -> None:
    write_records(tmp_path / "a.rec", [(i, encode(image)) for i, image in enumerate(images)])
    (tmp_path / "lfw.bin").touch()
    for path in (tmp_path / "a.rec", tmp_path):
        faces = read_faces(path)
        assert isinstance(faces, FaceRecords)
        assert contents(faces) == [(image.tolist(), i, i) for i, image in enumerate(images)]


def test_parts_share_their_labels(tmp_path: Path, images: list[np.ndarray], encode) -> None:
    data = list(map(encode, images))
    write_records(tmp_path / "p0.rec", [(40, data[0]), (7, data[1])])
    write_records(tmp_path / "p1.rec", [(9, data[2]), (40, data[3]), (50, data[4])])
    faces = read_faces(tmp_path)
    assert isinstance(faces, FaceParts)
    assert (len(faces), faces.num_identities) == (5, 4)
    wanted = [(1, 0), (0, 2), (2, 1), (3, 2), (4, 3)]  # sorted by label in each file
    assert contents(faces) == [(images[i].tolist(), label, at) for at, (i, label) in enumerate(wanted)]
    assert "p1.rec: record 2" in faces.where(3)
    for index in (-1, 5):
        with pytest.raises(IndexError):
            faces[index]


def part(payload: bytes) -> bytes:
    return struct.pack("<II", 0xCED7230A, len(payload)) + payload + bytes(-len(payload) % 4)


def test_shuffled_rec_without_ranges(tmp_path: Path, images: list[np.ndarray], encode) -> None:
    """As InsightFace's shuffling script writes it: images from record 0 on, labels in any order and as arrays."""
    rows = [
        (9, images[0]),
        (2, images[1]),
        (9, images[2]),
        (5, images[3]),
    ]
    records = [
        part(struct.pack("<IfQQ2f", 2, 0.0, key, 0, label, 1.0) + encode(image))
        for key, (label, image) in enumerate(rows)
    ]
    (tmp_path / "s.rec").write_bytes(b"".join(records))
    faces = read_faces(tmp_path / "s.rec")
    assert contents(faces) == [(images[i].tolist(), label, i) for i, label in enumerate([2, 0, 2, 1])]


def test_label_that_the_magic_cuts(tmp_path: Path) -> None:
    """A header as short as the magic in it leaves is read from the parts, not from the first alone."""
    magic = struct.pack("<I", 0xCED7230A)
    payload = (
        struct.pack("<I", 2) + magic + struct.pack("<QQ", 0, 0) + struct.pack("<2f", 6.0, 1.0) + b"image"
    )
    pieces = [struct.pack("<I", 2), payload[8:]]
    data = b"".join(
        magic + struct.pack("<I", flag << 29 | len(piece)) + piece + bytes(-len(piece) % 4)
        for flag, piece in zip((1, 3), pieces, strict=True)
    )
    (tmp_path / "m.rec").write_bytes(data)
    assert RecordFile(tmp_path / "m.rec").label(0) == RecordFile(tmp_path / "m.rec").read(0).label == 6


def test_labels_of_a_rec_are_read_without_its_images(tmp_path: Path) -> None:
    write_records(tmp_path / "a.rec", [(label, bytes(50)) for label in (3, 1, 2)])
    records = RecordFile(tmp_path / "a.rec")
    assert [records.label(i) for i in range(3)] == [1, 2, 3]
    with pytest.raises(IndexError):
        records.label(3)


def test_a_hundred_gigabytes_need_no_memory(tmp_path: Path, images: list[np.ndarray], encode) -> None:
    """Two hundred thousand records, most of them in a hole of a file of 100 GB, and one image at its end."""
    count, size = 200_000, 100 * 10**9
    image = part(struct.pack("<IfQQ", 0, 1.0, 0, 0) + encode(images[0]))
    path = tmp_path / "big.rec"
    with path.open("wb") as file:
        file.write(image)
        file.truncate(size)
        file.seek(size)
        file.write(image)
    if path.stat().st_blocks * 512 > 10**6:
        pytest.skip("this file system has no sparse files")
    offsets = np.append(np.linspace(0, size / 8, count, dtype=np.int64) // 4 * 4, size)
    path.with_suffix(".idx").write_text("".join(f"{k}\t{at}\n" for k, at in enumerate(offsets)))
    tracemalloc.start()
    try:
        records = RecordFile(path)
        held, peak = tracemalloc.get_traced_memory()
        assert records.read(count).image == encode(images[0])
    finally:
        tracemalloc.stop()
    assert len(records) == count + 1
    assert held < 20 * count
    assert peak < 150 * count
    os.truncate(path, 0)


def test_images_of_other_sizes_are_refused_by_name(people: Path, pictures, encode) -> None:
    saved(people / "Bea" / "1.jpeg", pictures(1, 12)[0], encode)
    faces = read_faces(people)
    faces[0], faces[1], faces[3]
    with pytest.raises(InputError, match=r"Bea/1\.jpeg has 12x12 pixels, and image 0 8x8: align .*size="):
        faces[2]


def test_size_crops_the_middle_and_scales(people: Path, encode) -> None:
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200  # the middle square
    saved(people / "Bea" / "1.jpeg", wide, encode)
    faces = read_faces(people, size=4)
    assert {tuple(image.shape) for image, _, _ in faces} == {(3, 4, 4)}
    assert faces[2][0].float().mean() > 190
    exact = read_faces(people, size=8)
    assert torch.equal(exact[0][0], read_faces(people)[0][0])


@pytest.mark.parametrize("place", ["Ann/b.png", "Bea/2.png"])
def test_corrupt_and_missing_files_are_named(people: Path, place: str) -> None:
    index = {"Ann/b.png": 0, "Bea/2.png": 3}[place]
    faces = read_faces(people)
    (people / place).write_bytes(b"junk")
    with pytest.raises(InputError, match=f"{place} is not a JPEG, PNG"):
        faces[index]
    (people / place).unlink()
    with pytest.raises(InputError, match=f"{place}: no such file"):
        faces[index]


def test_nothing_to_read(tmp_path: Path, people: Path) -> None:
    (tmp_path / "list.txt").write_text("people/Ann/b.png 0\npeople/Ann/b.png\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    cases = {
        r"no\.rec": tmp_path / "no.rec",
        r"no\.txt: no such file": tmp_path / "no.txt",
        "no .rec file and no folder of a person": people / "empty",
        r"list\.txt:2 is not `path label`": tmp_path / "list.txt",
        r"empty\.txt is empty": tmp_path / "empty.txt",
        r"binary\.txt:1 is not text": tmp_path / "binary.txt",
    }
    (people / "Ann" / "film 2" / "1.JPG").unlink()
    for message, path in cases.items():
        with pytest.raises(InputError, match=message):
            read_faces(path)
    with pytest.raises(InputError, match="leave out the image folder"):
        read_faces(people, people)


def test_real_rec(shared_faces: Path) -> None:
    faces = read_faces(shared_faces / "train.rec")
    assert (len(faces), faces.num_identities) == (6922, 3554)
    assert faces[0][0].shape == (3, 112, 112)


MARKET = [
    "0002_c1s1_000451_03.png",
    "-1_c2s1_000001_00.png",
    "0000_c1s2_000002_01.png",
    "0012_c3s1_000003_00.png",
]


def test_a_folder_of_images_alone(tmp_path: Path, images: list[np.ndarray], encode, caplog) -> None:
    for place, image in zip(["b.png", "A.jpeg", "._c.png", "c.png"], images, strict=False):
        saved(tmp_path / place, image, encode)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    faces = read_faces(tmp_path)
    assert contents(faces) == [(images[i].tolist(), -1, at) for at, i in enumerate((1, 0, 3))]
    assert faces.num_identities == 0
    assert caplog.messages == [f"{tmp_path}: passed over 1 hidden, 1 people without an image, 1 .txt"]


def test_names_of_market_1501_say_the_person(tmp_path: Path, images: list[np.ndarray], encode) -> None:
    for place, image in zip(MARKET, images, strict=False):
        saved(tmp_path / place, image, encode)
    faces = read_faces(tmp_path)
    assert [faces.label(i) for i in range(4)] == [-1, -1, 0, 1]
    shots = read_shots(tmp_path)
    assert shots.people == ["-1", "0000", "0002", "0012"]
    assert shots.cameras.tolist() == [2, 1, 1, 3]
    saved(tmp_path / "cat.png", images[0], encode)
    for read in (read_faces, read_shots):
        with pytest.raises(
            InputError, match=r"cat.png has no name such as 0002_c1s1_000451_03.jpg .* others have"
        ):
            read(tmp_path)
