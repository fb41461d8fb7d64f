"""The files that a user names, before anything opens them."""

from __future__ import annotations

from pathlib import Path
from stat import S_ISDIR, S_ISREG

from reparam_kit.errors import InputError
from reparam_kit.kinds import folder_says


def require_file(path: str | Path, wanted: str = "a file") -> Path:
    """Return ``path``, if it is a regular file or a link to one. Opening a pipe or a device can hang, or read without
    end.

    Args:
        path: what the user named.
        wanted: what it should be, for the message: "an .onnx file".

    Raises:
        InputError: nothing is there, or it is a folder, a device, a pipe or a socket, or it may not be looked at.

    >>> require_file("deployed.onnx", "an .onnx file").name
    'deployed.onnx'
    >>> require_file("missing.onnx", "an .onnx file")
    Traceback (most recent call last):
    reparam_kit.errors.InputError: missing.onnx: no such file; name an .onnx file
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
        raise InputError(f"{path}: {reason}; name {wanted}") from error
    if S_ISDIR(mode):
        raise InputError(f"{path} {folder_says(path) or f'is a folder; name {wanted}'}")
    if not S_ISREG(mode):
        raise InputError(f"{path} is a device, a pipe or a socket, which is not read; name {wanted}")
    return path


def read_file(path: str | Path, wanted: str = "a file") -> bytes:
    """Return the content of a file.

    Raises:
        InputError: as ``require_file``, or it cannot be read.

    >>> len(read_file("deployed.onnx", "an .onnx file")) > 1000
    True
    """
    path = require_file(path, wanted)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
