"""What counts in a fingerprint, and what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reparam_kit import fingerprint

DIFFERENT: list[Any] = [
    None, False, 0, 0.0, -0.0, 1, True, 1.0, 1j, "", "1", b"1", "0", float("nan"), float("inf"), 2**70,
    [], (), {}, set(), [1], (1,), {1}, {1: 1}, {"1": 1}, [[1], 2], [[1, 2]], [1, [2]], ["ab", "c"], ["a", "bc"],
    {"a": {"b": 1}}, {"a": 1, "b": 2}, {"a": 2, "b": 1},
    torch.zeros(2), torch.zeros(3), torch.zeros(1, 2), torch.zeros(2, 1), torch.zeros(()), torch.zeros(0),
    torch.zeros(2).double(), torch.zeros(2, dtype=torch.int32), torch.tensor([0.0, -0.0]), torch.zeros(2).half(),
    torch.zeros(2, dtype=torch.bfloat16), torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]),
    np.zeros(2), np.zeros(2, np.float32), np.zeros(2, ">f4"), np.zeros((2, 1)), np.zeros((), bool),
]  # fmt: skip


def test_what_differs_has_another_fingerprint() -> None:
    assert len({fingerprint(value) for value in DIFFERENT}) == len(DIFFERENT)


SAME: list[tuple[Any, Any]] = [
    ({"a": 1, "b": [2]}, {"b": [2], "a": 1}),
    ({"ab", "c", "d"}, {"d", "c", "ab"}),
    (torch.arange(6.0).view(2, 3).t().contiguous(), torch.arange(6.0).view(2, 3).t()),
    (torch.ones(2, requires_grad=True), torch.ones(2)),
    (torch.ones(1, 2, 3, 3).to(memory_format=torch.channels_last), torch.ones(1, 2, 3, 3)),
    (b"ab", bytearray(b"ab")),
    (np.arange(6).reshape(2, 3)[:, ::-1], np.arange(6).reshape(2, 3)[:, ::-1].copy()),
]


@pytest.mark.parametrize(("a", "b"), SAME)
def test_what_must_not_count_does_not(a: object, b: object) -> None:
    assert fingerprint(a) == fingerprint(b)


def test_it_is_the_same_in_every_process() -> None:
    """Where sets have another order."""
    code = "from reparam_kit import fingerprint; print(fingerprint({'a': {*'bcdefgh', ('e',)}, 'f': [1.5, None]}))"
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, env={"PYTHONHASHSEED": seed}
    )
    here = fingerprint({"f": [1.5, None], "a": {*"hgfedcb", ("e",)}})
    assert run.stdout.decode().strip() == here


def test_what_is_not_plain_has_none() -> None:
    with pytest.raises(TypeError, match="a type has no fingerprint"):
        fingerprint([int])


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(NESTED, NESTED)
def test_equal_fingerprints_are_of_equal_values(a: object, b: object) -> None:
    assert (fingerprint(a) == fingerprint(b)) == (repr(a) == repr(b) or _sorted(a) == _sorted(b))


def _sorted(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{sorted((key, _sorted(part)) for key, part in value.items())}}}"
    return repr([_sorted(part) for part in value]) if isinstance(value, list) else repr(value)
