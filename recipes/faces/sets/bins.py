"""InsightFace's ``.bin``, a pickle of ``(bins, issame)``, read without running what it names.

``bins`` are 2N encoded images, as bytes or as uint8 arrays; ``issame`` are N truth values; pair ``i`` is the images
``2i`` and ``2i + 1``. A pickle can name any function of the machine and have it called. Here a name never reaches an
import. The few names that such files need, numpy's array constructors among them, get small stand-ins that can hold
bytes and do nothing else, because numpy's own constructors trust what a pickle says about memory. Every other name is
refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recipes.faces.sets.unpickling import Unpickler
from reparam_kit import InputError, UnsafeFileError, require_file


def read_bin(path: Path) -> tuple[list[bytes], list[bool]]:
    """Images and truths of a file written by python 2 or 3.

    Raises:
        UnsafeFileError: the file names something that a verification set does not hold. Nothing that it names was run.
        InputError: the file is missing, cut short, or not such a set.
    """
    require_file(path, "a .bin file")
    try:
        with path.open("rb") as file:
            pickled = Unpickler(file, path.stat().st_size, _stand_ins()).load()
        bins, same = _entries(pickled)
        return [_image(entry) for entry in _entries(bins)], [_truth(entry) for entry in _entries(same)]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path} {error}") from None
    except Exception as error:  # a damaged pickle can fail in any way
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is cut short or is not a pickle of (bins, issame): {reason}") from error


def _entries(value: object) -> list[object]:
    if isinstance(value, _Array):
        return list(value.data)
    if isinstance(value, (list, tuple)):
        return list(value)
    raise ValueError(f"a {type(value).__name__} where a list belongs")


def _image(entry: object) -> bytes:
    data = entry.data if isinstance(entry, _Array) else entry
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    raise ValueError(f"a {type(data).__name__} where an encoded image belongs")


def _truth(entry: object) -> bool:
    value = entry.data[0] if isinstance(entry, _Array) and len(entry.data) == 1 else entry
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise ValueError(f"a {type(value).__name__} where true or false belongs")


class _Array:
    """What becomes of a numpy array or scalar: its bytes or, where it is an array of objects, their list."""

    def __init__(self, dtype: object, data: bytes | bytearray | list[object]) -> None:
        if not isinstance(dtype, _Dtype) or isinstance(data, list) != dtype.of_objects:
            raise ValueError("a numpy array whose content is not what its dtype says")
        self.data = data


class _PendingArray(_Array):
    """An array as ``_reconstruct`` leaves it, to be filled by its state."""

    def __init__(self) -> None:
        self.data = b""

    def __setstate__(self, state: tuple[int, object, object, object, bytes | list[object]]) -> None:
        _version, _shape, dtype, _fortran, data = state
        super().__init__(dtype, data)


class _Dtype:
    """A numpy dtype: one byte an item (uint8, int8 or bool), or objects."""

    def __init__(self, name: str | bytes) -> None:
        name = name.decode() if isinstance(name, bytes) else name
        if name not in ("u1", "i1", "b1", "O8", "O"):
            raise ValueError(f"a numpy array of {name!r}, not of bytes")
        self.of_objects = name.startswith("O")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which one byte does not have."""


def _stand_ins() -> dict[str, Callable[..., object]]:
    """Return what is called where a pickle calls each name that it may."""
    names: dict[str, Callable[..., object]] = {
        "_codecs.encode": _Latin1(),
        "numpy.ndarray": lambda: None,
        "numpy.dtype": lambda name, *_flags: _Dtype(name),
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray._reconstruct"] = lambda *_: _PendingArray()
        names[f"{core}.multiarray.scalar"] = _Array
        names[f"{core}.numeric._frombuffer"] = lambda data, dtype, *_: _Array(dtype, data)
    return names


class _Latin1:
    """How python 3 writes bytes for python 2: as text. Text that is named again gives the same bytes, not more."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, bytes] = {}

    def __call__(self, text: str, encoding: str) -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"bytes in the encoding {encoding!r}")
        if text not in self._known:
            self._known[text] = text.encode("latin1")
        return self._known[text]
