"""Writing files so that a failure leaves the old file or none, never half of a new one.

What is written lies in a temporary file beside the target until it is whole and on the disk. A target that is a link
stays one: the file that it points to is replaced. The mode of a replaced file, and its owner where that is allowed,
stay too. A second name of the file (a hard link) keeps the old content.
"""

from __future__ import annotations

import atexit
import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISREG, S_IWUSR
from typing import BinaryIO

from reparam_kit.errors import InputError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Beyond it, what follows the last dot is no suffix, and the name may be too long with it.
_LONGEST_SUFFIX = 32

_unfinished: dict[Path, int] = {}  # temporary files, and the process that made each


def discard_unfinished() -> None:
    """Remove the temporary files of this process; an exit does it where an exception cut the usual way short."""
    for path, process in list(_unfinished.items()):
        if process == os.getpid():
            with suppress(OSError):
                path.unlink(missing_ok=True)
            _unfinished.pop(path, None)


atexit.register(discard_unfinished)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what the body writes there becomes ``path`` when the body succeeds.

    The temporary name keeps the suffix, because some writers choose the format by it. The file is there, and empty,
    before the body runs, so that a place that cannot be written to is refused before any work.

    Raises:
        InputError: the folder of ``path`` does not exist or cannot be written to, ``path`` is a folder, a device or
            a pipe, or it is a file that may not be written to.
    """
    with atomic_paths([path]) as (temporary,):
        yield temporary


@contextmanager
def atomic_paths(paths: Sequence[str | Path]) -> Iterator[list[Path]]:
    """Write several files as :func:`atomic_path` does one: they belong together, of which the first is read first and
    names the others.

    The first is never there beside others that are not its own: where one of those is replaced, the old first is taken
    away before, and the new one comes last.

    Raises:
        InputError: as :func:`atomic_path`.
    """
    writes = [_Write(Path(path)) for path in paths]
    try:
        for write in writes:
            write.start()
        yield [write.temporary for write in writes]
        for write in writes:
            write.finish()
        _move(writes)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise InputError(f"{paths[0]} cannot be written: {error.strerror}") from error
    finally:
        for write in writes:
            write.temporary.unlink(missing_ok=True)
            _unfinished.pop(write.temporary, None)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of ``path`` at the end, when it is whole.

    >>> with atomic_file("notes.txt") as file:
    ...     _ = file.write(b"all of it, or what was there before")
    >>> Path("notes.txt").stat().st_size
    35
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def require_writable(path: str | Path) -> None:
    """Refuse what :func:`atomic_path` would refuse, before the work that is to be written.

    Raises:
        InputError: as there.

    >>> require_writable("better.onnx")
    """
    target = _target(Path(path))
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{path} cannot be written: the folder {target.parent} may not be written to")


class _Write:
    """One file on its way: its place, at the end of all links, and a temporary file beside that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.target = _target(path)
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= _LONGEST_SUFFIX else ""
        self.temporary = self.target.with_name(f".{secrets.token_hex(4)}{suffix}")

    def start(self) -> None:
        """Make the temporary file, for nobody's eyes but those that the target is for."""
        try:
            _unfinished[self.temporary] = os.getpid()
            self.temporary.touch()
            if self.target.exists():
                self.temporary.chmod(S_IMODE(self.target.stat().st_mode) | S_IWUSR)
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from error

    def finish(self) -> None:
        """Give it the owner and the mode of the file that it replaces, and wait until it is on the disk."""
        if self.target.exists():
            old = self.target.stat()
            if hasattr(os, "chown"):
                with suppress(OSError):
                    os.chown(self.temporary, old.st_uid, old.st_gid)
            self.temporary.chmod(S_IMODE(old.st_mode))
        _sync(self.temporary)


def _move(writes: list[_Write]) -> None:
    first, *others = writes
    if any(write.target.exists() for write in others):
        first.target.unlink(missing_ok=True)
    for write in (*others, first):
        write.temporary.replace(write.target)
    for folder in {write.target.parent for write in writes}:
        _sync(folder)


def _target(path: Path) -> Path:
    """Return the file that is replaced, at the end of all links, if it may be."""
    try:
        target = Path(os.path.realpath(path))
        folder = target.parent.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path} cannot be written: the folder {path.parent} does not exist; create it first"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{path} cannot be written: {getattr(error, 'strerror', error)}") from error
    if not S_ISDIR(folder.st_mode):
        raise InputError(f"{path} cannot be written: {path.parent} is no folder")
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        return target
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    if S_ISDIR(mode):
        raise InputError(f"{path} cannot be written: it is a folder; name a file in it")
    if S_ISLNK(mode):
        raise InputError(f"{path} cannot be written: it is a link that leads to itself")
    if not S_ISREG(mode):
        raise InputError(
            f"{path} cannot be written: it is a device or a pipe, which would be replaced; name a file"
        )
    if not os.access(target, os.W_OK):
        raise InputError(f"{path} cannot be written: it is a file that may not be written to")
    return target


def _sync(path: Path) -> None:
    """Wait until ``path``, a file or a folder, is on the disk, as far as the system can say."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:  # a folder on Windows
        return
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF):
            raise
    finally:
        os.close(file)
