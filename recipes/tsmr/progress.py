"""How far a run is, on stderr: a live bar in a terminal, one line for each finished pass elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from reparam_kit import printable

LOGGER = logging.getLogger("recipes.tsmr")  # of all that a run warns of


class Pass:
    """One pass over images: what is done, how fast, and a note such as the loss."""

    def __init__(self, name: str, total: int, seconds: float, bars: Bars | None) -> None:
        self.name = name
        self.done = 0
        self.note = ""
        self._start = time.perf_counter() - seconds
        self._bars = bars
        self._bar = bars.add_task(name, total=total, rate="", note="") if bars else None
        if bars is not None:
            bars.start()

    @property
    def rate(self) -> float:
        """Images a second since the pass began."""
        return self.done / (time.perf_counter() - self._start)

    def advance(self, images: int, note: str = "") -> None:
        """Count ``images`` more as done; without a ``note`` the last one stands."""
        self.done += images
        self.note = note or self.note
        if self._bars is not None and self._bar is not None:
            self._bars.update(self._bar, advance=images, rate=f"{self.rate:.0f} images/s", note=self.note)

    def stop(self) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.stop()


class Progress:
    """Reports the passes of a run, or nothing where it is ``silent``."""

    def __init__(self, silent: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=silent)

    def say(self, line: str) -> None:
        """Print a line of its own."""
        self._console.print(printable(line), soft_wrap=True, markup=False)

    def begin(self, name: str, total: int, seconds: float = 0.0) -> Pass:
        """Begin a pass over ``total`` images, or ``seconds`` ago; it has to be stopped."""
        if self._console.quiet or not self._console.is_terminal:
            return Pass(name, total, seconds, None)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}  {task.fields[note]}"),
            TimeRemainingColumn(),
        )
        return Pass(name, total, seconds, Bars(*columns, console=self._console, transient=True))

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Pass]:
        """Show a pass over ``total`` images. Its line is written when the block ends well."""
        begun = self.begin(name, total)
        try:
            yield begun
        finally:
            begun.stop()
        self.say(f"{name}: {begun.done} images, {begun.rate:.0f} images/s")


class _Shown(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._console = Console(stderr=True, highlight=False)

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname}: {printable(record.getMessage())}"
        self._console.print(line, soft_wrap=True, markup=False, style="bold red")


@contextmanager
def warnings_shown(by: bool = True) -> Iterator[None]:
    """Show on stderr, in colour, what a run warns of in this block; one of several processes does."""
    handler = _Shown() if by else logging.NullHandler()
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
