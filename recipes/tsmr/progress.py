"""What a run warns of: in the logger, and on the command line on stderr."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from recipes.progress import tell, under_labels

LOGGER = logging.getLogger("recipes.tsmr")  # of all that a run warns of


class _Shown(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        tell(f"{record.levelname}: {under_labels(record.getMessage())}", style="bold red")


@contextmanager
def warnings_shown(by: bool = True) -> Iterator[None]:
    """Show on stderr, in colour, what a run warns of in this block; one of several processes does."""
    logger = logging.getLogger("recipes")
    handler = _Shown() if by else logging.NullHandler()
    logger.addHandler(handler)
    passed, logger.propagate = logger.propagate, False  # which would show them once more
    try:
        yield
    finally:
        logger.propagate = passed
        logger.removeHandler(handler)
