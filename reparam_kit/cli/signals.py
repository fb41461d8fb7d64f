"""Signals that ask a process to end: all of them end a command as Ctrl-C does, through what clears up behind it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from reparam_kit.atomic import discard_unfinished

# Ctrl-C and Ctrl-\, a terminal that is closed, `kill`, and what queues of clusters send before the time is up.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGALRM")


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Ending:
    """How far this process is on its way out; ``by`` is the signal that sent it there."""

    def __init__(self) -> None:
        self.by: Interrupted | None = None
        self.final = False
        self._process = os.getpid()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise in the process that installed this; one that was forked from it has nothing to say and goes."""
        interrupted = Interrupted(number)
        if os.getpid() != self._process:
            os._exit(interrupted.exit_code)
        if self.final:  # all is cleared up, and something hangs
            discard_unfinished()
            os._exit(interrupted.exit_code)
        self.by = self.by or interrupted
        sys.unraisablehook = lambda _: None  # what is cut off while it is torn down has no news for anybody
        raise self.by

    def close(self) -> None:
        """Close it: from now on a signal ends the process at once."""
        self.final = True


@contextmanager
def ending_well() -> Iterator[Ending]:
    """Within it, the signals raise :class:`Interrupted`; those that somebody ignores (``nohup``) stay ignored."""
    ending = Ending()
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        before = {number: signal.getsignal(number) for number in numbers}
        before = {number: handler for number, handler in before.items() if handler in usual}
    hook = sys.unraisablehook
    try:
        for number in before:
            signal.signal(number, ending.handle)
        yield ending
    finally:
        if ending.by is None:
            # Else the process is about to end, and what is left of it is cut off without a word.
            for number, handler in before.items():
                signal.signal(number, handler)
            sys.unraisablehook = hook
