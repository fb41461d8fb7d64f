"""Records and verification sets: what is written is read, damage is named, and nothing in a file is run."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.faces import (
    FaceRecords,
    PairSet,
    RecordFile,
    decode_image,
    read_pairs,
    write_pairs,
    write_records,
)
from reparam_kit import InputError, UnsafeFileError

MAGIC = struct.pack("<I", 0xCED7230A)
PIECES = st.one_of(st.just(MAGIC), st.binary(max_size=7))
PAYLOADS = st.lists(PIECES, max_size=6).map(b"".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), PAYLOADS), min_size=1, max_size=8), st.booleans())
def test_records_round_trip_whatever_they_hold(
    tmp_path: Path, records: list[tuple[int, bytes]], with_index: bool
) -> None:
    path = tmp_path / "faces.rec"
    write_records(path, records)
    if not with_index:
        path.with_suffix(".idx").unlink()
    file = RecordFile(path)
    got = [file.read(i) for i in range(len(file))]
    assert [(record.label, record.image) for record in got] == sorted(records, key=lambda record: record[0])
    again = pickle.loads(pickle.dumps(file))
    assert again.read(0) == got[0]


def test_identity_ranges_cover_the_images(tmp_path: Path) -> None:
    write_records(tmp_path / "faces.rec", [(7, b"a"), (2, b"b"), (7, b"c")])
    assert RecordFile(tmp_path / "faces.rec").identity_ranges().tolist() == [[0, 1], [1, 3]]


def read_all(path: Path) -> None:
    file = RecordFile(path)
    file.identity_ranges()
    for index in range(len(file)):
        file.read(index)


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize("keep", [0, 3, 8, 20, 45, 60, -1, -4, -30])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int, with_index: bool) -> None:
    path = tmp_path / "faces.rec"
    write_records(path, [(0, b"x" * 30), (1, b"y" * 31)])
    path.write_bytes(path.read_bytes()[:keep])
    if not with_index:
        path.with_suffix(".idx").unlink()
    with pytest.raises(InputError, match=r"faces\.rec") as caught:
        read_all(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_record_that_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no record file"):
        RecordFile(tmp_path / "none.rec")
    write_records(tmp_path / "faces.rec", [(0, b"no image")])
    with pytest.raises(InputError, match=r"faces\.rec: record 1 at byte \d+.* not a JPEG or PNG"):
        FaceRecords(tmp_path / "faces.rec")[0]


def test_pairs_round_trip(tmp_path: Path) -> None:
    pairs = PairSet([b"a", b"b", b"c", b"d"], np.array([True, False]))
    write_pairs(tmp_path / "set.bin", pairs)
    got = read_pairs(tmp_path / "set.bin")
    assert got.images == pairs.images
    assert got.same.tolist() == [True, False]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("as_arrays", [True, False])
def test_what_others_pickled_is_read(tmp_path: Path, protocol: int, as_arrays: bool) -> None:
    images = [b"\xff\xd8one", b"\x00two"]
    entries = [np.frombuffer(image, np.uint8) for image in images] if as_arrays else images
    same = [np.bool_(True)] if as_arrays else [True]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((entries, same), protocol))
    got = read_pairs(tmp_path / "set.bin")
    assert got.images == images
    assert got.same.tolist() == [True]


class Call:
    """Pickles as a call of ``function`` when it is read."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "touch ran"),
        Call(eval, "open('ran', 'w')"),
        Call(getattr, Call(__import__, "os"), "system"),
        Call(np.load, "ran"),
        Call(Path.touch, Path("ran")),
    ],
)
def test_hostile_pickles_do_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("set.bin").write_bytes(pickle.dumps(([b"a", call], [True]), protocol))
    with pytest.raises(UnsafeFileError, match="it was not run") as caught:
        read_pairs("set.bin")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["set.bin"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short or is not a pickle"),
        (b"hello, world", "cut short or is not a pickle"),
        (pickle.dumps(([b"a", b"b"], [True]))[:-3], "cut short or is not a pickle"),
        (pickle.dumps(([b"a"], [True])), "1 images do not make 1 pairs"),
        (pickle.dumps(([], [])), "0 images do not make 0 pairs"),
        (pickle.dumps(42), "set.bin"),
    ],
)
def test_sets_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "set.bin").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_pairs(tmp_path / "set.bin")


def test_a_missing_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(tmp_path / "none.bin")


def test_the_real_files(shared_faces: Path) -> None:
    faces = FaceRecords(shared_faces / "train.rec")
    assert (len(faces), faces.num_identities) == (6922, 3554)
    image, label, index = faces[6921]
    assert (image.shape, label, index) == ((3, 112, 112), 3553, 6921)
    pairs = read_pairs(shared_faces / "lfw_dev.bin")
    assert (len(pairs), pairs.same.sum()) == (1200, 600)
    assert decode_image(pairs.images[0], "pair 0").shape == (112, 112, 3)
