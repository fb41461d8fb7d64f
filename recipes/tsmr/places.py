"""The files and folders of a run: none that it reads is written to, and no other run writes to them meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from filelock import FileLock, Timeout

import reparam_kit as rk
from recipes.tsmr.arguments import require_kinds
from recipes.tsmr.distributed import Processes
from recipes.tsmr.targets.identity import made_folder

Params = ParamSpec("Params")
Result = TypeVar("Result")


def in_its_own_places(run: Callable[Params, Result]) -> Callable[Params, Result]:
    """``run``, an ``apply_tsmr``, which begins where its outputs are not its inputs and no other run writes them."""

    @wraps(run)
    def guarded(*args: Params.args, **options: Params.kwargs) -> Result:
        given = signature(run).bind(*args, **options).arguments
        require_kinds(given)
        _hold_apart(given)
        with ExitStack() as locks:
            if Processes.current().rank == 0:
                if (cache := given.get("cache")) is not None:
                    locks.enter_context(locked(made_folder(Path(cache)) / ".lock"))
                if (checkpoint := given.get("checkpoint")) is not None:
                    path = Path(checkpoint)
                    locks.enter_context(locked(path.with_name(f".{path.name[:200]}.lock")))
            return run(*args, **options)

    return guarded


def _hold_apart(given: dict[str, Any]) -> None:
    read = []
    for name in ("teacher", "data", "val"):
        value = given.get(name)
        read += [(name, path) for path in (value if isinstance(value, list | tuple) else [value])]
    holds = {"cache": ("*.npy", "images-*.txt"), "checkpoint": (), "logs": ("events.out.tfevents.*",)}
    rk.hold_apart(
        [(name, path) for name, path in read if isinstance(path, str | Path)],
        {
            name: rk.Output(Path(given[name]), patterns)
            for name, patterns in holds.items()
            if given.get(name) is not None
        },
    )


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
