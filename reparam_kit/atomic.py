"""Writing files so that a failure leaves the old file or none, never half of a new one."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reparam_kit.errors import InputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what the body writes there becomes ``path`` when the body succeeds.

    The temporary name keeps the suffix, because some writers choose the format by it. The file is there, and empty,
    before the body runs, so that a place that cannot be written to is refused before any work.

    Raises:
        InputError: the folder of ``path`` does not exist or cannot be written to, or ``path`` is a folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(
            f"{path} cannot be written: the folder {path.parent} does not exist; create it first"
        )
    if path.is_dir():
        raise InputError(f"{path} cannot be written: it is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise InputError(
            f"{path} cannot be written: it is a device or a pipe, which would be replaced; name a file"
        )
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        temporary.touch()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """:func:`atomic_path` as a binary file, open for writing."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file
