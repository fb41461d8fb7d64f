"""Standard output and error that are closed, full or gone: a line or silence, and never a file that catches them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, TextIO


class OutputLostError(OSError):
    """Standard output takes no more."""


class _Guarded:
    """A stream that is pointed at nothing once it fails: the interpreter writes what is left of it when it ends."""

    def __init__(self, stream: TextIO, needed: bool) -> None:
        self._stream = stream
        self._needed = needed
        self._lost: OutputLostError | None = None

    def write(self, text: str) -> int:
        if self._lost is not None and self._needed:  # somebody may have passed over the first error
            raise self._lost
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self._drain()
        self._lost = OutputLostError(error.errno, f"standard output: {error.strerror}")
        if self._needed:
            raise self._lost from error

    def _drain(self) -> None:
        with suppress(OSError, ValueError):  # a stream that is no file, as in tests
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard_streams() -> None:
    """Make both streams such. A closed one becomes nothing: else the next file that is opened would be in its place,
    and take what is meant for it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w")  # noqa: SIM115, PTH123
        if isinstance(stream, TextIOWrapper):  # one in an older encoding than a name or a table needs
            stream.reconfigure(errors="backslashreplace")
        if not isinstance(stream, _Guarded):
            setattr(sys, name, _Guarded(stream, needed=name == "stdout"))
