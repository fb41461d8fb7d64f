"""webdataset's shards, against tars that Python's tarfile writes; and tars that are wrong in one way each."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import tracemalloc
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from recipes.faces import FaceShards, read_faces
from recipes.faces.sets.tar import iterate_members
from reparam_kit import InputError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
Files = Iterable[tuple[str, bytes]]


def write_tar(
    path: Path, files: Files, form: int = tarfile.PAX_FORMAT, kind: bytes = tarfile.REGTYPE
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            info.mtime = 1.5  # as webdataset writes it: pax keeps it in a header of its own
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def images(pictures) -> list[np.ndarray]:
    return pictures(6)


def samples(images: list[np.ndarray], encode, labels: Iterable[object], start: int = 0) -> Files:
    for number, (image, label) in enumerate(zip(images, labels, strict=False), start=start):
        yield f"{number:06d}.png", encode(image)
        yield f"{number:06d}.cls", str(label).encode()


def contents(faces) -> list[tuple[list, int]]:
    return [(image.permute(1, 2, 0).tolist(), label) for image, label, _ in faces]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("folder", ["", "./", "train/" + "a" * 50 + "/" + "b" * 80 + "/", "ü/"])
def test_images_and_labels_in_any_order(form: int, folder: str, tmp_path: Path, images, encode) -> None:
    files = [(f"{folder}{name}", data) for name, data in samples(images, encode, [7, 3, -1, 7, 0, 3])]
    faces = read_faces(write_tar(tmp_path / "a.tar", files, form))
    assert isinstance(faces, FaceShards)
    wanted = [(image.tolist(), label) for image, label in zip(images, [2, 1, -1, 2, 0, 1], strict=True)]
    assert contents(faces) == wanted
    assert [faces[i][1] for i in (5, 0, 3)] == [1, 2, 2]
    assert (faces.num_identities, faces.label(2)) == (3, -1)
    assert contents(pickle.loads(pickle.dumps(faces))) == wanted
    for index in (-1, 6):
        with pytest.raises(IndexError, match="1 shards have 6 images"):
            faces[index]


@pytest.fixture
def several(tmp_path: Path, images, encode) -> Path:
    """Three shards with two images each; labels are of all of them together."""
    for number in range(3):
        part = slice(2 * number, 2 * number + 2)
        write_tar(
            tmp_path / f"set/s-{number:04d}.tar",
            samples(images[part], encode, [[5, 1], [5, 9], [0, 1]][number]),
        )
    return tmp_path / "set"


@pytest.mark.parametrize("name", ["", "s-{0000..0002}.tar"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_several_shards_are_one_set(several: Path, name: str, images) -> None:
    faces = read_faces(several / name)
    assert contents(faces) == [(i.tolist(), n) for i, n in zip(images, [2, 1, 2, 3, 0, 1], strict=True)]
    loaded = list(DataLoader(faces, 4, num_workers=2))
    assert torch.cat([labels for _, labels, _ in loaded]).tolist() == [2, 1, 2, 3, 0, 1]
    assert len(read_faces(several / "s-{0..1}.tar".replace("0..1", "0000..0001"))) == 4
    assert "s-0001.tar: the image at byte" in faces.where(2)


@pytest.mark.parametrize(
    ("files", "label"),
    [
        ({"json": json.dumps({"label": 4, "caption": "x"})}, 4),
        ({"json": json.dumps({"caption": "x"}), "txt": "4"}, 4),
        ({"json": "[1, 2]", "txt": "a caption, of 4 words"}, -1),
        ({"txt": " 4\n"}, 4),
        ({"cls": "4", "json": json.dumps({"label": 9})}, 4),
        ({"seg.png": "no image", "pyd": "\x80\x04.", "pth": "x"}, -1),
        ({}, -1),
    ],
)
def test_where_a_label_may_stand(files: dict[str, str], label: int, tmp_path: Path, images, encode) -> None:
    first = [
        ("0.png", encode(images[0])),
        *((f"0.{ending}", text.encode()) for ending, text in files.items()),
    ]
    others = [
        (f"{n}.{e}", d)
        for n in range(1, 6)
        for e, d in (("PNG", encode(images[n])), ("cls", str(n - 1).encode()))
    ]
    faces = read_faces(write_tar(tmp_path / "a.tar", [*first, *others]))
    assert [faces.label(i) for i in range(6)] == [label, 0, 1, 2, 3, 4]


def test_a_sample_without_an_image_is_counted(tmp_path: Path, images, encode, caplog) -> None:
    files = [
        ("a.txt", b"1"),
        ("b.png", encode(images[0])),
        ("._c.png", b"what another system left"),
        ("d", b""),
    ]
    assert len(read_faces(write_tar(tmp_path / "a.tar", files))) == 1
    assert caplog.messages == [f"{tmp_path / 'a.tar'} has 1 samples without an image, which are passed over"]


PIXEL = b"pixel"
WRONG: dict[str, tuple[Files, str]] = {
    "no image": ([("a.txt", b"3")], "has no image .* in 1 samples"),
    "no member": ([], "has no image"),
    "up": ([("../a.png", PIXEL)], "'../a.png' at byte 0|'../a.png' .* leads out of its folder"),
    "up within": ([("x/../../a.png", PIXEL)], "leads out of its folder"),
    "root": ([("/etc/a.png", PIXEL)], "leads out of its folder"),
    "twice": ([("a.png", PIXEL), ("a.png", PIXEL)], "the member 'a.png' is there twice"),
    "apart": ([("a.png", PIXEL), ("b.png", PIXEL), ("a.cls", b"1")], "two samples are called a"),
    "several": ([("a.png", PIXEL), ("a.jpg", PIXEL)], "several images, a.png, a.jpg: keep one"),
    "several views": ([("a.left.png", PIXEL), ("a.right.png", PIXEL)], "several images"),
    "no number": ([("a.png", PIXEL), ("a.cls", b"cat")], "a.cls has the label 'cat', not a whole number"),
    "long number": ([("a.png", PIXEL), ("a.cls", b"9" * 30)], "not a whole number of at most 18 digits"),
    "no JSON": ([("a.png", PIXEL), ("a.json", b"{")], "a.json is not JSON"),
    "deep JSON": ([("a.png", PIXEL), ("a.json", b"[" * 100000)], "a.json is not JSON"),
    "text in JSON": ([("a.png", PIXEL), ("a.json", b'{"label": "cat"}')], "a.json has the label 'cat'"),
    "large": ([("a.png", PIXEL), ("a.cls", b" " * (2 << 20))], "has 2,097,152 bytes, too many for a label"),
}


@pytest.mark.parametrize(("files", "says"), WRONG.values(), ids=WRONG)
def test_what_is_no_shard_is_one_line(files: Files, says: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", files)
    with pytest.raises(InputError, match=says) as raised:
        read_faces(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"S"])
def test_links_and_devices_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.png", b"")], tarfile.GNU_FORMAT, kind)
    with pytest.raises(InputError, match=r"the member 'a\.png' at byte 0 is "):
        read_faces(path)


def test_a_shard_that_is_cut_short(several: Path) -> None:
    path = several / "s-0001.tar"
    whole = path.read_bytes()
    end = max(member.offset + member.size for member in iterate_members(path))
    for length in (100, 512, 700, end - 3, -(-end // 512) * 512):
        path.write_bytes(whole[:length])
        with pytest.raises(
            InputError, match=r"s-0001.tar is cut short: it ends at byte|s-0001.tar .*is damaged"
        ):
            read_faces(several)
    path.write_bytes(whole)
    faces = read_faces(several)
    path.write_bytes(whole[:1024])
    with pytest.raises(InputError, match="cut short: the file has changed"):
        faces[3]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda path: path.write_bytes(gzip.compress(b"x" * 600)),
            r"is compressed \(gzip\): .* a plain .tar",
        ),
        (lambda path: path.write_bytes(b"x" * 2000), "is damaged, or this is no tar file"),
        (lambda path: path.write_bytes(b""), "is cut short: it ends at byte 0"),
        (lambda path: None, "no such file"),
    ],
)
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "b-{00..00}.tar"])
def test_other_files(make, says: str, name: str, tmp_path: Path) -> None:
    make(tmp_path / name.replace("{00..00}", "00"))
    with pytest.raises(InputError, match=says):
        read_faces(tmp_path / name)


@pytest.mark.parametrize(
    "record", [b"9" * 5000 + b" a=b\n", "13 size=\u00b2\n".encode(), b"5014 size=" + b"9" * 5003 + b"\n"]
)
def test_numbers_that_are_none_are_passed_over(record: bytes, tmp_path: Path) -> None:
    header, file = tarfile.TarInfo("pax"), tarfile.TarInfo("a.png")
    header.type, header.size, file.size = tarfile.XHDTYPE, len(record), 3
    parts = [
        header.tobuf(tarfile.USTAR_FORMAT),
        record,
        bytes(-len(record) % 512),
        file.tobuf(),
        b"abc",
        bytes(509),
    ]
    (tmp_path / "a.tar").write_bytes(b"".join(parts) + bytes(1024))
    assert [(member.name, member.size) for member in iterate_members(tmp_path / "a.tar")] == [("a.png", 3)]


def test_folders_and_ranges_that_say_nothing(several: Path, encode, images) -> None:
    with pytest.raises(InputError, match=r"the range \{5..2\} counts from a number up"):
        read_faces(several / "s-{5..2}.tar")
    with pytest.raises(InputError, match=r"the range \{0..99999999\}"):
        read_faces(several / "s-{0..99999999}.tar")
    with pytest.raises(InputError, match=r"s-0003\.tar: no such file"):
        read_faces(several / "s-{0000..0003}.tar")
    (several / "a.rec").touch()
    with pytest.raises(InputError, match=r"has .rec files and shards \(.tar\): name the one or the other"):
        read_faces(several)


def test_what_is_held_does_not_grow_with_the_images(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar", ((f"{n:06d}.png", bytes(4000)) for n in range(3000)), tarfile.USTAR_FORMAT
    )
    read_faces(path)  # which may import
    tracemalloc.start()
    faces = read_faces(path)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(faces) == 3000
    assert held < 3000 * 64
    assert most < 3000 * 400


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("fuzz") / "a.tar"
    files = [
        ("a.png", b"12345"),
        ("a.cls", b"3"),
        ("n" * 120 + ".png", b"1"),
        ("b.png", bytes(700)),
        ("b.json", b"{}"),
    ]
    return path, write_tar(path, files).read_bytes()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_is_told_or_makes_no_difference_to_its_reading(
    shard: tuple[Path, bytes], data: st.DataObject
) -> None:
    """Bytes are changed, with checksums made good or not, and the end cut: no other error, and no endless loop."""
    path, whole = shard
    damaged = bytearray(
        whole[: data.draw(st.integers(0, 8) | st.integers(0, len(whole)) | st.just(len(whole)))]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 11 * 512))
        if at < len(damaged):
            damaged[at] = data.draw(st.integers(0, 255))
            head = at // 512 * 512
            if data.draw(st.booleans()) and head + 512 <= len(damaged):
                info = damaged[head : head + 512]
                total = sum(info[:148]) + sum(info[156:]) + 8 * 32
                damaged[head + 148 : head + 156] = b"%06o\0 " % total
    path.write_bytes(damaged)
    with suppress(InputError):
        faces = read_faces(path)
        assert all(len(faces.encoded(i)[0]) <= len(whole) for i in range(len(faces)))
