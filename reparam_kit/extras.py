"""What an extra of the installation brings, or one line that says how to get it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from reparam_kit.errors import InputError, first_line


@contextmanager
def extra(name: str, need: str) -> Iterator[None]:
    """Import within it what the extra ``name`` installs.

    >>> with extra("faces", "reading images needs Pillow"):
    ...     from PIL import Image

    Raises:
        InputError: an import fails; it says ``need``, and what to install.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(f'{need}: pip install "reparam-kit[{name}]" ({first_line(error)})') from error
