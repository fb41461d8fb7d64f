"""The files and folders of a run: none that it reads is written to, and no other run writes to them meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import reparam_kit as rk
from recipes.faces.judging.judge import JUDGES
from recipes.tsmr.distributed import Processes
from recipes.tsmr.run import HOLDS
from recipes.tsmr.targets.identity import made_folder

Place = str | Path | None


def hold_apart(read: Mapping[str, Any], written: Mapping[str, Place | rk.Output]) -> None:
    """Refuse a run that would write to what it reads, or twice to one place.

    Args:
        read: what each is called, and a path, or several; what is no path is not asked.
        written: what each is called, and its path; None for none.

    Raises:
        InputError: two of them are one, or one lies where it must not.
    """
    given = {name: value if isinstance(value, list | tuple) else [value] for name, value in read.items()}
    rk.hold_apart(
        [(name, path) for name, values in given.items() for value in values for path in paths_of(value)],
        {
            name: path if isinstance(path, rk.Output) else rk.Output(Path(path), HOLDS.get(name, ()))
            for name, path in written.items()
            if path is not None
        },
    )


def paths_of(value: Any) -> list[str | Path]:
    """Return the paths that a value names: itself, or behind the kind of a judge, such as ``people:faces,others``."""
    if not isinstance(value, str | Path):
        return []
    kind, colon, rest = str(value).partition(":")
    if colon and kind in JUDGES and not Path(value).exists():
        return [rest, *rest.split(",")]
    return [value]


@contextmanager
def own_places(cache: Place, checkpoint: Place) -> Iterator[None]:
    """Keep other runs out of a folder for embeddings and from a checkpoint, in the first process for all."""
    with ExitStack() as locks:
        if Processes.current().rank == 0:
            if cache is not None:
                locks.enter_context(locked(made_folder(Path(cache)) / ".lock"))
            if checkpoint is not None:
                path = Path(checkpoint)
                locks.enter_context(locked(path.with_name(f".{path.name[:200]}.lock")))
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which is there as long as that. What a process that was killed held is free.

    Raises:
        InputError: another run holds it, or its folder cannot be written to.
    """
    if not path.parent.is_dir():  # which filelock would make
        raise rk.InputError(f"the folder {path.parent} does not exist; create it first")
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise rk.InputError(
            f"another run writes to {path.parent}: wait for its end, or name another folder (--work; cache, checkpoint)"
        ) from None
    except NotImplementedError:  # a file system without locks
        yield
        return
    except OSError as error:
        raise rk.InputError(f"{path.parent} cannot be written to: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            path.unlink()
        lock.release()
