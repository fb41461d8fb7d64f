from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.faces import PairSet, read_pairs, write_pairs
from reparam_kit import InputError, UnsafeFileError

IMAGES = [b"\xff\xd8one", b"two", b"thr\x00ee", b"four"]
SAME = [True, False]


def stored(path: Path, content: object, protocol: int) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "make",
    [
        lambda bins, same: (bins, same),
        lambda bins, same: [bins, same],
        lambda bins, same: (tuple(bins), tuple(same)),
        lambda bins, same: ([np.frombuffer(b, np.uint8) for b in bins], same),
        lambda bins, same: ([np.frombuffer(b, np.uint8).copy() for b in bins], same),
        lambda bins, same: (bins, np.array(same)),
        lambda bins, same: (bins, [np.bool_(s) for s in same]),
        lambda bins, same: (bins, [int(s) for s in same]),
        lambda bins, same: (np.array(bins, dtype=object), same),
    ],
    ids=[
        "tuple",
        "list",
        "tuples",
        "read-only arrays",
        "arrays",
        "same array",
        "same scalars",
        "ints",
        "objects",
    ],
)
def test_every_way_to_store(tmp_path: Path, make, protocol: int) -> None:
    pairs = read_pairs(stored(tmp_path / "a.bin", make(IMAGES, SAME), protocol))
    assert pairs.images == IMAGES
    assert pairs.same.dtype == np.bool_
    assert pairs.same.tolist() == SAME


def test_python_2(tmp_path: Path) -> None:
    """What cPickle of python 2 wrote with protocol 2 for ``(["\\xff1", "2"], [True])``."""
    data = b"\x80\x02]q\x01(U\x02\xff1q\x02U\x012q\x03e]q\x04\x88a\x86q\x05."
    (tmp_path / "a.bin").write_bytes(data)
    pairs = read_pairs(tmp_path / "a.bin")
    assert pairs.images == [b"\xff1", b"2"]
    assert pairs.same.tolist() == [True]


def test_python_2_array_of_numpy_1(tmp_path: Path) -> None:
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\n"
        b"tR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'hi'\ntb"
    )
    (tmp_path / "a.bin").write_bytes(b"((l" + array + b"a" + array + b"a(lI01\nat.")
    assert read_pairs(tmp_path / "a.bin").images == [b"hi", b"hi"]


class _Call:
    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(_Call(os.system, "touch ran")),
        pickle.dumps(([b"a", b"b"], _Call(eval, "open('ran', 'w')"))),
        pickle.dumps(_Call(getattr, np.ndarray, "dump")),
        b'c__builtin__\nexec\n(S\'open("ran", "w")\'\ntR.',
        b"(S'touch ran'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch ran'\no.",
        b"\x80\x02csubprocess\nPopen\n(S'touch ran'\nt\x81.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\ttouch ran\x85R.",
        b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"((lcos\nsystem\n(S'touch ran'\ntRa(lI01\nat.",
        b"\x80\x04\x8c\x02os\x8c\x07sys\ntem\x93.",
    ],
    ids=[
        "system",
        "eval",
        "getattr",
        "exec",
        "inst",
        "obj",
        "newobj",
        "stack_global",
        "dotted",
        "numpy_load",
        "in_a_bin",
        "newline",
    ],
)
def test_hostile_pickle_is_refused_and_not_run(
    tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(UnsafeFileError) as caught:
        read_pairs(tmp_path / "a.bin")
    assert "\n" not in str(caught.value)
    assert "a.bin names '" in str(caught.value)
    assert not (tmp_path / "ran").exists()


GOOD = pickle.dumps((IMAGES, SAME), protocol=4)


def in_both_bins(image: bytes) -> bytes:
    return b"((l" + image + b"a" + image + b"a(lI01\nat."


OBJECTS = b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        pickle.dumps("text"),
        pickle.dumps(([b"a", b"b"],)),
        pickle.dumps(([b"a", b"b"], [2])),
        pickle.dumps(([b"a", b"b"], ["yes"])),
        pickle.dumps((["a", "b"], [True])),
        pickle.dumps(([1, 2], [True])),
        pickle.dumps((IMAGES, [True])),
        pickle.dumps(([], [])),
        pickle.dumps(([np.zeros(3), np.zeros(3)], [True])),
        pickle.dumps({"bins": IMAGES, "same": SAME, "x": 1}),
        # A stand-in takes no state, and none of its arguments reaches a codec or numpy.
        b"c_codecs\nencode\n}S'__defaults__'\nNsb.",
        b"cnumpy\ndtype\n}S'_call'\nNsb.",
        b"c_codecs\nencode\n(S'x'\nS'idna'\ntR.",
        in_both_bins(b"cnumpy.core.multiarray\nscalar\n(" + OBJECTS + b"S'AAAAAAAA'\ntR"),
        in_both_bins(b"cnumpy.core.numeric\n_frombuffer\n(S'AAAAAAAA'\n" + OBJECTS + b"(I1\ntS'C'\ntR"),
        b"S'id'\nQ.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_not_a_verification_set(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.bin") as caught:
        read_pairs(tmp_path / "a.bin")
    assert not isinstance(caught.value, UnsafeFileError)
    assert "\n" not in str(caught.value)


def test_stand_ins_survive_a_file_that_tried_to_change_them(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"c_codecs\nencode\n(N}V_call\nNstb.")
    with pytest.raises(InputError):
        read_pairs(tmp_path / "a.bin")
    assert read_pairs(stored(tmp_path / "b.bin", (IMAGES, SAME), 2)).images == IMAGES


@pytest.mark.parametrize("size", range(len(GOOD)))
def test_cut_short(tmp_path: Path, size: int) -> None:
    (tmp_path / "a.bin").write_bytes(GOOD[:size])
    with pytest.raises(InputError, match=r"a\.bin is cut short or is not"):
        read_pairs(tmp_path / "a.bin")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.bin: no such file"):
        read_pairs(tmp_path / "a.bin")


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.binary(), st.binary(), st.booleans()), min_size=1))
def test_round_trip(tmp_path: Path, rows: list[tuple[bytes, bytes, bool]]) -> None:
    images = [image for first, second, _ in rows for image in (first, second)]
    same = [truth for *_, truth in rows]
    write_pairs(tmp_path / "a.bin", PairSet(images, np.array(same)))
    read = read_pairs(tmp_path / "a.bin")
    assert read.images == images
    assert read.same.tolist() == same
    assert len(read) == len(rows)
    plain = pickle.loads((tmp_path / "a.bin").read_bytes(), encoding="bytes")
    assert plain == (images, same)  # as InsightFace reads it


@pytest.mark.parametrize(("images", "same"), [([b"a"], [True]), ([b"a"] * 3, [True]), ([], [])])
def test_lengths_must_match(images: list[bytes], same: list[bool]) -> None:
    with pytest.raises(InputError, match="images do not make"):
        PairSet(images, np.array(same, np.bool_))


def test_real_file(shared_faces: Path) -> None:
    pairs = read_pairs(shared_faces / "lfw_dev.bin")
    assert len(pairs) == 1200
    assert pairs.same.sum() == 600
