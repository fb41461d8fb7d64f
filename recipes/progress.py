"""How far a run is, on stderr: a live bar in a terminal; elsewhere, as in a log file, lines with a time stamp.

What is said, and who is told: ``labelled`` stands before every line, warnings too, and what embeds images shows how far
it is within ``Progress.shown``, without being told by everyone in between.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime

from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress as Bars
from rich.progress import ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from reparam_kit import printable

_LOGGER = logging.getLogger("recipes.progress")  # of all that is said, whether it is shown or not
_TEXTS = 76  # characters beside a bar, most often
_EVERY = 30.0  # seconds without a line, where there is no bar

_LABELS: ContextVar[tuple[str, ...]] = ContextVar("labels", default=())
_SHOWN: ContextVar[Progress | None] = ContextVar("shown", default=None)


def live() -> bool:
    """Return whether a bar may move on stderr: a terminal, and neither CI nor NO_COLOR nor TERM=dumb asks for lines."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false") or os.environ.get("NO_COLOR"):
        return False
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def tell(line: str, style: str | None = None) -> None:
    """Print a line on stderr, with a time stamp where there are no bars."""
    moving = live()
    stamp = "" if moving else f"{datetime.now():%Y-%m-%d %H:%M:%S} "
    console = Console(stderr=True, highlight=False, force_terminal=moving)
    console.print(f"{stamp}{printable(line)}", soft_wrap=True, markup=False, style=style)


@contextmanager
def labelled(label: str) -> Iterator[None]:
    """Put ``label`` before all that is said, shown or warned of within."""
    token = _LABELS.set((*_LABELS.get(), label))
    try:
        yield
    finally:
        _LABELS.reset(token)


def under_labels(line: str) -> str:
    """Return the line with what it is labelled with before it."""
    return ": ".join([*_LABELS.get(), line])


def memory() -> str:
    """Return how much memory was in use at most: of the device where that is CUDA, else of this process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return f"GPU memory {decimal(torch.cuda.max_memory_allocated())}"
    try:
        import resource
    except ImportError:  # Windows does not say
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f"memory {decimal(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)}"


class _Line(ProgressColumn):
    """A bar with its texts as one column: in a narrow terminal the end of the line is cut off, and no other part."""

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self._width = min(max(console.width - _TEXTS, 4), 24)
        self._piece = "\u2501" if console.encoding.startswith("utf") else "="

    def render(self, task: Task) -> Text:
        if task.total is None:
            bar, done = Text(), f"{task.completed:,.0f} images"
        else:
            full = round(self._width * task.percentage / 100)
            bar = Text(self._piece * full, "bar.complete")
            bar.append(self._piece * (self._width - full), "bar.back")
            done = f"{task.percentage:.0f}%"
        return Text.assemble(task.description, " ", bar, f" {done} {task.fields['state']}")


class Pass:
    """One pass over images: what is done, how fast, how long it takes, and a note such as the loss.

    Args:
        progress: on which it is shown.
        name: what it is called.
        total: images; None: not known.
        seconds: since it began.
        further: how many such passes follow in the run.
        each: seconds that one of them takes; 0: as long as this one.
    """

    def __init__(
        self,
        progress: Progress,
        name: str,
        total: int | None,
        seconds: float = 0.0,
        further: int = 0,
        each: float = 0.0,
    ) -> None:
        self.name = name
        self.done = 0
        self.note = ""
        self._progress, self._total, self._further, self._each = progress, total, further, each
        self._start = time.monotonic() - seconds
        self._bars: Bars | None = None
        if not progress.silent and live():
            console = Console(stderr=True, highlight=False, force_terminal=True)
            self._bars = Bars(_Line(console), console=console, transient=True)
            self._bar = self._bars.add_task(printable(under_labels(name)), total=total, state="")
            self._bars.start()

    @property
    def rate(self) -> float:
        """Images a second since the pass began."""
        return self.done / max(time.monotonic() - self._start, 1e-9)

    def advance(self, images: int, note: str = "") -> None:
        """Count ``images`` more as done; without a ``note`` the last one stands."""
        self.done += images
        self.note = note or self.note
        if self._bars is not None:
            self._bars.update(self._bar, advance=images, state=self.state())
        elif time.monotonic() - Progress.told >= _EVERY:
            of = "" if self._total is None else f" of {self._total:,}"
            self._progress.say(f"{self.name}: {self.done:,}{of} images, {self.state()}")

    def state(self) -> str:
        """Return rate, time left, memory and note as text."""
        parts = [f"{self.rate:.0f} images/s", *self._times(), memory(), self.note]
        return ", ".join(part for part in parts if part)

    def _times(self) -> Iterator[str]:
        if self._total is not None and self.done:
            left = max(self._total - self.done, 0) / self.rate
            yield f"ETA {shown_time(left)}"
            if self._further:
                each = self._each or self._total / self.rate
                yield f"of the run {shown_time(left + self._further * each)}"
        if self._progress.until is not None:
            yield f"budget left {shown_time(self._progress.until - time.monotonic())}"

    def stop(self) -> None:
        """Take the bar away."""
        if self._bars is not None:
            self._bars.stop()


def shown_time(seconds: float) -> str:
    """Return a duration as text, such as ``05:00`` or ``1:05:00``."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes:02}:{rest:02}"


class Progress:
    """Reports the passes of a run, or nothing where it is ``silent``; the logger "recipes.progress" has all lines.

    Attributes:
        until: when the time of the run is over, by ``time.monotonic()``; None where it has no end.
        told: when the last line was, by the same clock, of whichever: all are on one stderr.
    """

    told = time.monotonic()

    def __init__(self, silent: bool = False) -> None:
        self.silent = silent
        self.until: float | None = None

    def say(self, line: str) -> None:
        """Print a line of its own."""
        Progress.told = time.monotonic()
        _LOGGER.info(under_labels(line))
        if not self.silent:
            tell(under_labels(line))

    def begin(
        self, name: str, total: int | None, seconds: float = 0.0, further: int = 0, each: float = 0.0
    ) -> Pass:
        """Begin a pass over ``total`` images, or ``seconds`` ago; it has to be stopped."""
        return Pass(self, name, total, seconds, further, each)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Pass]:
        """Show a pass over ``total`` images. Its line is written when the block ends well."""
        begun = self.begin(name, total)
        try:
            yield begun
        finally:
            begun.stop()
        self.say(f"{name}: {begun.done:,} images, {begun.rate:.0f} images/s")

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show on it, within the block, how far what embeds images is."""
        token = _SHOWN.set(self)
        try:
            yield
        finally:
            _SHOWN.reset(token)


def watching(asked: bool) -> Progress:
    """Return the progress of the run that goes on here; without one, what is shown where it is ``asked`` for."""
    return _SHOWN.get() or Progress(silent=not asked)
