"""What an interrupted run goes on from, and the refusal to go on with something else.

The file is read with ``weights_only=True``: it holds tensors, numbers and text, and nothing that it names is
run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from recipes.tsmr.results import EpochReport
from recipes.tsmr.training.callbacks import Callback
from reparam_kit import InputError, atomic_file, fingerprint, first_line, require_file


class CheckpointFile(Callback):
    """Writes ``state()`` of the run ``origin`` to ``path`` after each epoch, see ``write_checkpoint``."""

    def __init__(self, path: Path, origin: dict[str, Any], state: Callable[[], dict[str, Any]]) -> None:
        self._path = path
        self._origin = origin
        self._state = state

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        write_checkpoint(self._path, self._origin, self._state())


def write_checkpoint(path: Path, origin: dict[str, Any], state: dict[str, Any]) -> None:
    """Write ``state`` with ``origin``, names and values that it depends on, and a checksum of both.

    An old file stays until this one is whole.
    """
    content = BytesIO()  # written by torch itself, a full disk is an error that says nothing of disks
    torch.save({"run": origin, "state": state, "sha256": fingerprint([origin, state])}, content)
    with atomic_file(path) as file:
        file.write(content.getbuffer())


def read_checkpoint(path: Path, origin: dict[str, Any]) -> dict[str, Any] | None:
    """Return the state that ``write_checkpoint`` wrote for the same ``origin``, on the CPU; None where there is no
    file.

    Raises:
        InputError: the file is not such a checkpoint, is cut short or damaged, or was written for a run that
            differs; the message names each field that does.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        pass  # which has a line below
    require_file(path, "a checkpoint of this recipe")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        was, state, checksum = saved["run"], saved["state"], saved["sha256"]
        if fingerprint([was, state]) != checksum:
            raise ValueError("the checksum is of another content")
    except Exception as error:  # a damaged file fails in any way it likes
        raise InputError(
            f"{path} is not a checkpoint of this recipe, or damaged: delete it to start anew"
        ) from error
    was, now = dict(leaves(was)), dict(leaves(origin))
    differing = [
        f"{name}={was.get(name)!r} (now {now.get(name)!r})"
        for name in {**was, **now}
        if was.get(name) != now.get(name)
    ]
    if differing:
        raise InputError(
            f"{path} was written by a run with {', '.join(differing)}: "
            "repeat that run's choices to go on with it, or delete it to start anew"
        )
    return state  # type: ignore[no-any-return]


@contextmanager
def whole(path: str | Path | None) -> Iterator[None]:
    """Say in one line where what a checkpoint holds does not fit the run that goes on from it."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} does not fit the run that it names, {first_line(error)}: delete it to start anew"
        ) from error


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Return what is nested in ``value`` under names such as ``stages.0.cosine``."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        yield from leaves(dict(enumerate(value)), name)
    else:
        yield name, value
