"""What a run writes, held against what it reads and against what else it writes, before anything runs.

Two paths are one file where the system says so: through links, second names, ``./`` and names that differ in case. Of a
file that is not there yet, folder and name decide, and names that differ in case alone count as one.
"""

from __future__ import annotations

import mmap
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from reparam_kit.errors import InputError
from reparam_kit.files import require_file


@dataclass(frozen=True)
class Output:
    """A file that is written, or a folder in which what matches one of the patterns ``holds`` is.

    >>> Output(Path("runs"), holds=("checkpoint.pt", "*.npy")).path.name
    'runs'
    """

    path: Path
    holds: tuple[str, ...] = ()


def hold_apart(inputs: Iterable[tuple[str, str | Path]], outputs: Mapping[str, Output]) -> None:
    """Refuse an output that would replace an input or another output, or be taken for a part of an input folder.

    Args:
        inputs: what each is called, for the message, and its path. What belongs to one counts as one: the external data
            of an ``.onnx`` and the index of a ``.rec``.
        outputs: by what each is called.

    Raises:
        InputError: two of them are one, or one lies where it must not.

    >>> hold_apart([("--data", "train.rec")], {"--output": Output(Path("better.onnx"))})
    >>> hold_apart([("--data", "train.rec")], {"--output": Output(Path("./train.rec"))})
    Traceback (most recent call last):
    reparam_kit.errors.InputError: --output train.rec and --data train.rec are the same: name another path
    """
    read = [(name, Path(path)) for name, given in inputs for path in _with_its_own(Path(given))]
    for name, output in outputs.items():
        for other, path in read:
            _refuse(name, output, other, path)
            if path.is_dir() and _key(path) in _folders(output.path):
                raise InputError(
                    f"{name} {output.path} lies in {other} {path}, and would be taken for a part of it: write elsewhere"
                )
        for other, another in outputs.items():
            if other != name:
                _refuse(name, output, other, another.path)


def _refuse(name: str, output: Output, other: str, path: Path) -> None:
    if _key(output.path) == _key(path):
        raise InputError(f"{name} {output.path} and {other} {path} are the same: name another path")
    if any(fnmatch(inside, pattern) for inside in _inside(output, path) for pattern in output.holds):
        raise InputError(f"{other} {path} lies where {name} {output.path} is written to: name another path")
    if output.path.suffix == ".onnx" and _key(output.path.parent) == _key(path.parent):
        taken = (f"{output.path.name}.data", f"{output.path.name}.[0-9]*.data")
        if any(fnmatch(path.name.casefold(), pattern.casefold()) for pattern in taken):
            raise InputError(f"{name} {output.path} may keep tensors in {other} {path}: name another path")


def _inside(output: Output, path: Path) -> Iterator[str]:
    """Yield the part of ``path`` that lies directly in the folder ``output``, if any."""
    if output.holds:
        real, folder = _real(path), _key(output.path)
        yield from (part.name for part in (real, *real.parents) if _key(part.parent) == folder)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(str(path).replace("\0", "?")))  # a NUL is refused where the path is opened


def _folders(path: Path) -> set[Any]:
    return {_key(folder) for folder in _real(path).parents}


def _key(path: Path) -> Any:
    """Return the same for two paths that are one file, whether it exists or not."""
    real = _real(path)
    try:
        info = real.stat()
    except OSError:
        return (_key(real.parent), unicodedata.normalize("NFC", real.name).casefold())
    return (info.st_dev, info.st_ino)


def _with_its_own(path: Path) -> list[Path]:
    """Return ``path`` and the files that are read with it."""
    match path.suffix:
        case ".onnx":
            return [path, *_external(path)]
        case ".rec":
            return [path, path.with_suffix(".idx"), path.with_name("property")]
    return [path]


def _external(path: Path) -> list[Path]:
    """Return where an ONNX file keeps tensors beside itself; none where it cannot be read, which what reads it has to
    say.
    """
    from reparam_kit.onnx.external import address, is_external
    from reparam_kit.onnx.weights import all_tensors, parse_onnx

    try:
        require_file(path)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(b"location") < 0:  # found in a moment; reading a large model takes more
                return []
            model = parse_onnx(content[:], str(path))
        return [path.parent / address(tensor)[0] for tensor in all_tensors(model) if is_external(tensor)]
    except (OSError, ValueError, InputError):  # ValueError: an empty file
        return []
