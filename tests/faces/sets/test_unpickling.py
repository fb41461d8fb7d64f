"""A ``.bin`` may hold anything: it costs no more memory than it has bytes, and ends in one line."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.faces import read_pairs
from reparam_kit import InputError

START = b"\x80\x05"
MEGABYTE = 1 << 20
ONE_BUFFER = b"\x96" + struct.pack("<Q", MEGABYTE) + bytes(MEGABYTE)
LATIN1 = (
    b"c_codecs\nencode\nq\x01X"
    + struct.pack("<I", MEGABYTE)
    + b"a" * MEGABYTE
    + b"X\x06\0\0\0latin1\x86q\x02R"
)
LIMIT, MANY = 1 << 16, 1 << 17  # of objects; the package's own limit takes seconds to reach
BOMBS = {
    "memo of 2**28": b"]r" + struct.pack("<I", 1 << 28) + b".",
    "memo of 2**31": b"]r" + struct.pack("<I", (1 << 31) - 1) + b".",
    "bytes of 2**40": b"\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "bytes of 2**63": b"\x8e" + struct.pack("<Q", 1 << 63) + b"x.",
    "a bytearray of 2**33": b"\x96" + struct.pack("<Q", 1 << 33) + b"x.",
    "a frame of 2**40": b"\x95" + struct.pack("<Q", 1 << 40) + b"].",
    "text of 2**32": b"X\xff\xff\xff\xffx.",
    "a negative length": b"T\xff\xff\xff\xffx.",
    "an integer of 2**31 bytes": b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"\x01.",
    "an integer of a million digits": b"I" + b"9" * 10**6 + b"\n.",
    "many tuples in each other": b")" + b"\x85" * MANY + b".",
    "many lists in each other": b"]" * MANY + b"a" * (MANY - 1) + b".",
    "marks": b"(" * MANY + b".",
    "lists": b"(" + b"]" * MANY + b"l.",
    "duplicates": b"]" + b"2" * MANY + b".",
    "memo entries": b"]" + b"\x94" * MANY + b".",
    "a list in itself": b"]q\x00h\x00ah\x00\x86.",
    "nothing to pop": b"\x85.",
    "a mark used": b"(\x85.",
    "no mark": b"]]e.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_end_in_a_line_within_the_memory_of_the_file(
    tmp_path: Path, bomb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.faces.sets.unpickling._MAX_OBJECTS", LIMIT)
    (tmp_path / "a.bin").write_bytes(START + BOMBS[bomb])
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"a\.bin is cut short or is not a pickle"):
            read_pairs(tmp_path / "a.bin")
        assert tracemalloc.get_traced_memory()[1] < 200 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("again", [b"h\x00", b"h\x01h\x02R"], ids=["a buffer", "a call"])
def test_what_is_named_ten_thousand_times_is_held_once(tmp_path: Path, again: bytes) -> None:
    once = ONE_BUFFER + b"q\x00" if again == b"h\x00" else LATIN1
    images = b"](" + once + again * 9_999 + b"e"
    (tmp_path / "a.bin").write_bytes(START + images + b"](" + b"\x88" * 5_000 + b"e\x86.")
    tracemalloc.start()
    try:
        pairs = read_pairs(tmp_path / "a.bin")
        assert tracemalloc.get_traced_memory()[1] < 60 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert len(pairs) == 5_000
    assert {len(image) for image in pairs.images} == {MEGABYTE}


IMAGES = [b"\xff\xd8one", b"two", b"thr\x00ee", b"four"]
SEEDS = [pickle.dumps((IMAGES, [True, False]), protocol=protocol) for protocol in range(6)] + [
    pickle.dumps(([np.frombuffer(image, np.uint8) for image in IMAGES], np.array([True, False])), protocol=2)
]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SEEDS), st.data())
def test_mutations_are_pairs_or_a_line(tmp_path: Path, seed: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(seed)))
    mutated = seed[:at] + data.draw(st.binary(max_size=9)) + seed[at + data.draw(st.integers(0, 9)) :]
    (tmp_path / "a.bin").write_bytes(mutated)
    try:
        pairs = read_pairs(tmp_path / "a.bin")
    except InputError:
        return
    assert len(pairs.images) == 2 * len(pairs)
