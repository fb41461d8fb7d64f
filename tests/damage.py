"""Damage to files, as disks, transfers and other programs do it: for tests of what reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

import reparam_kit as rk

Damage = Callable[[bytes], bytes]


def _flip(at: float, bit: int) -> Damage:
    def damage(content: bytes) -> bytes:
        place = int(at * len(content))
        return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]

    return damage


def _cut(at: float) -> Damage:
    return lambda content: content[: int(at * len(content))]


def _blank(at: float, length: int) -> Damage:
    def damage(content: bytes) -> bytes:
        place = int(at * len(content))
        return content[:place] + bytes(len(content[place : place + length])) + content[place + length :]

    return damage


def _swap(a: float, b: float, length: int) -> Damage:
    def damage(content: bytes) -> bytes:
        first, second = sorted(int(at * (len(content) // length)) * length for at in (a, b))
        one, two = content[first : first + length], content[second : second + length]
        if first == second or len(two) < length:
            return content[length:]
        return content[:first] + two + content[first + length : second] + one + content[second + length :]

    return damage


_PLACE = st.floats(0, 1, exclude_max=True)
DAMAGE = st.one_of(
    st.builds(_flip, _PLACE, st.integers(0, 7)),
    st.builds(_cut, _PLACE),
    st.builds(_blank, _PLACE, st.sampled_from([1, 4, 64, 512])),
    st.builds(_swap, _PLACE, _PLACE, st.sampled_from([1, 4, 24, 64])),
    st.builds(lambda tail: lambda content: content + tail, st.binary(min_size=1, max_size=64)),
)


def refusal(payload: bytes, folder: Path) -> str | None:
    """What is said to the file, where it cannot be read and written back."""
    original, written = folder / "model.onnx", folder / "new.onnx"
    before = {path.name for path in folder.iterdir()}
    original.write_bytes(payload)
    try:
        rk.save(rk.load(original), written)
        rk.diff(original, written)
        written.unlink()
        said = None
    except rk.ReparamError as error:
        said = str(error)
    original.unlink()
    assert {path.name for path in folder.iterdir()} == before
    assert said is None or ("\n" not in said and len(said) < 1000)
    assert "allocate" not in (said or "")  # it has tried to
    return said
