"""The ``.idx`` beside a ``.rec`` file: one line ``key<TAB>byte offset`` for each record."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reparam_kit import InputError, require_file

Ints = npt.NDArray[np.int64]


def read_index(path: Path) -> tuple[Ints, Ints]:
    """Keys, ascending, and byte offsets.

    Raises:
        InputError: it is not such a file, or names a record twice.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns of an empty file
            table = np.loadtxt(require_file(path, "an .idx file"), dtype=np.int64, ndmin=2)
        keys, offsets = table[np.argsort(table[:, 0], kind="stable")].T
    except (OSError, ValueError, UserWarning) as error:
        raise InputError(f"{path} does not hold lines of `key<TAB>byte offset`: {error}") from error
    if keys[0] < 0 or offsets.min() < 0:
        raise InputError(f"{path} holds a negative number")
    twice = keys[1:][keys[1:] == keys[:-1]]
    if len(twice):
        raise InputError(f"{path} has two lines for record {twice[0]}")
    return keys, offsets


def select_records(path: Path, keys: Ints, offsets: Ints, end: int) -> tuple[Ints, Ints]:
    """Keys and offsets of the records ``1 .. end - 1`` of the file ``path``.

    Raises:
        InputError: one of them is missing.
    """
    inside = (keys > 0) & (keys < end)
    keys, offsets = keys[inside], offsets[inside]
    if len(keys) != end - 1:
        gaps = np.flatnonzero(keys != np.arange(1, len(keys) + 1))
        missing = int(gaps[0]) + 1 if len(gaps) else len(keys) + 1
        raise InputError(
            f"{path} has no record {missing}, though its record 0 promises them up to {end - 1}: "
            "it or its .idx was cut short"
        )
    return keys, offsets
