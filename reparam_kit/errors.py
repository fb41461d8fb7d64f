"""One family of errors. Each message says what was wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from itertools import islice
from traceback import walk_tb
from typing import Any
from unicodedata import category

_LONGEST = 2000  # of a message: names of any length may be in it
_LISTED = 20  # names of a list that answers an unknown one


class ReparamError(Exception):
    """Anything this package refuses to do. The command line prints it in one line and exits with ``exit_code``."""

    exit_code = 2

    def __str__(self) -> str:
        line = printable(super().__str__())
        return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 4 :]}"


class InputError(ReparamError):
    """A file, a name or a value that the user gave cannot be used: missing, truncated, malformed, misspelt."""


class UnsafeFileError(InputError):
    """Reading the file would run code that it carries, and the user has not said that it may."""


class ExpressionError(InputError):
    """A block expression that does not parse, or does not fit the convolution it is applied to."""


class UnsupportedError(ReparamError):
    """Something well-formed that this package does not handle, such as an ONNX operator without an importer."""


class NothingToDoError(ReparamError):
    """The request was understood and leaves nothing to work on: a model without a convolution to expand."""

    exit_code = 3


class VerificationError(ReparamError):
    """Two things that had to be equal are not.

    ``report`` is all that was found: the ``Report`` of :func:`reparam_kit.verify`, the ``StructuralDiff`` of
    :func:`reparam_kit.diff`, the ``Match`` nearest to an export; None where the message says it all.
    """

    exit_code = 1

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


def printable(text: object) -> str:
    """Return ``text`` as one line that may be shown anywhere: names are data, and may hold what a terminal would obey.

    What has no glyph (control and bidirectional characters, line ends, bytes of a file name that are no UTF-8) is
    written as Python writes it in a string.

    >>> print(printable("a name with a tab\\tin it"))
    a name with a tab\\tin it
    """
    return "".join(c if c.isprintable() or category(c) == "Zs" else repr(c)[1:-1] for c in str(text))


def first_line(error: BaseException) -> str:
    """Return the first line of what another library says, or the name of its error where it says nothing.

    >>> first_line(ValueError("what is wrong\\nand much more")), first_line(KeyError())
    ('what is wrong', 'KeyError')
    """
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_own_fault(error: Exception) -> bool:
    """Return whether our own code raised it, and not a library over a user's data."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    ours = frame.f_globals.get("__name__", "").partition(".")[0] == __package__
    return ours and isinstance(error, AssertionError | AttributeError | NameError | TypeError)


def suggestion(name: str, known: Collection[str], kind: str) -> str:
    """Return what to do about a ``name`` that is not among the ``known``: the nearest of them, or all.

    >>> suggestion("dbd", ["dbb", "repvgg"], "blocks")
    "did you mean 'dbb'?"
    >>> suggestion("x", ["dbb", "repvgg"], "blocks")
    'known blocks: dbb, repvgg'
    """
    if near := get_close_matches(name, known, n=1):
        return f"did you mean {near[0]!r}?"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"known {kind}: {', '.join(islice(known, _LISTED)) or 'none'}{more}"
