"""How far a run is, on stderr: a live bar in a terminal, one line for each finished pass elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from reparam_kit import printable


class Task:
    """One pass over images: what is done, how fast, and a note such as the loss."""

    def __init__(self, name: str, total: int, bars: Bars | None) -> None:
        self.name = name
        self.done = 0
        self.note = ""
        self._start = time.perf_counter()
        self._bars = bars
        self._bar = bars.add_task(name, total=total, rate="", note="") if bars else None

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


class Progress:
    """Reports the passes of a run; ``silent`` where another process does."""

    def __init__(self, silent: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=silent)

    def say(self, line: str) -> None:
        """A line of its own."""
        self._console.print(printable(line), soft_wrap=True, markup=False)

    def warn(self, line: str) -> None:
        """A line that is not overlooked."""
        self._console.print(f"WARNING: {printable(line)}", soft_wrap=True, markup=False, style="bold red")

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Task]:
        """A pass over ``total`` images. Its line is written when the block ends well."""
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}  {task.fields[note]}"),
                TimeRemainingColumn(),
            )
            with Bars(*columns, console=self._console, transient=True) as bars:
                task = Task(name, total, bars)
                yield task
        else:
            task = Task(name, total, None)
            yield task
        note = f", {task.note}" if task.note else ""
        self.say(f"{name}: {task.done} images, {task.rate:.0f} images/s{note}")
