"""One number for nested values: whether a file is still what was written, and whether two things are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Set
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

_Update: TypeAlias = Callable[[Any], None]  # of a hash: bytes, or an array of them


def fingerprint(value: object) -> str:
    """Return the sha256, in hex, of nested plain values: the same in every process and for every order of a dict's
    keys.

    Plain are None, numbers, text, bytes, tensors, numpy arrays, and tuples, lists, sets and dicts of these. Types
    count, of numbers too; of an array dtype and shape do, and not device, strides or ``requires_grad``.

    Raises:
        TypeError: another value is among them.

    >>> fingerprint({"a": 1, "b": [2.0]}) == fingerprint({"b": [2.0], "a": 1})
    True
    >>> fingerprint(1) == fingerprint(1.0)
    False
    """
    digest = hashlib.sha256()
    _feed(digest.update, value)
    return digest.hexdigest()


def _feed(update: _Update, value: object) -> None:
    # Each value begins with its kind and its length, so that no two values feed the same bytes.
    if isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        _leaf(update, f"tensor {value.dtype} {tuple(value.shape)}", content)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        _leaf(update, f"array {value.dtype.str} {value.shape}", content)
    elif isinstance(value, bytes | bytearray):
        _leaf(update, "bytes", value)
    elif isinstance(value, str):
        _leaf(update, "str", value.encode("utf-8", "surrogatepass"))
    elif value is None or isinstance(value, bool | int | float | complex):
        _leaf(update, type(value).__name__, repr(value).encode())
    elif isinstance(value, Mapping):
        update(f"dict {len(value)}\n".encode())
        for key, part in sorted(
            ((fingerprint(key), part) for key, part in value.items()), key=lambda p: p[0]
        ):
            update(key.encode())
            _feed(update, part)
    elif isinstance(value, Set):
        update(b"set\n")
        _feed(update, sorted(map(fingerprint, value)))
    elif isinstance(value, list | tuple):
        update(f"{'list' if isinstance(value, list) else 'tuple'} {len(value)}\n".encode())
        for part in value:
            _feed(update, part)
    else:
        raise TypeError(f"a {type(value).__name__} has no fingerprint")


def _leaf(update: _Update, kind: str, content: bytes | bytearray | npt.NDArray[np.uint8]) -> None:
    update(f"{kind} {len(content)}\n".encode())
    update(content)
