"""Lists in text files, line by line, so that every complaint names its line.

Tabs part the words of a line that has them, and then names may have spaces; else spaces do. Nothing is quoted, and
there are no comments. Names of files that are not UTF-8 are kept byte for byte, as Python's own functions for files do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reparam_kit import InputError, require_file

_BLANKS = " \t\n"
_DIGITS = 18  # of a number that fits into 64 bits


@dataclass(frozen=True)
class Line:
    """A line that is not empty, and its file and number."""

    text: str
    where: str
    separator: str | None

    @property
    def words(self) -> list[str]:
        """What stands between the separators; only a name between tabs may begin with spaces."""
        if self.separator:
            return [word.strip() for word in self.text.split(self.separator)]
        parts = self.text.split("\t" if "\t" in self.text else " ")
        return [part.rstrip(" ") for part in parts if part.strip(" ")]

    @property
    def halves(self) -> list[str]:
        """A name and the last word. Without tabs the name is all that stands before the last spaces, as it stands."""
        if "\t" in self.text:
            return self.words
        name, _, word = self.text.rpartition(" ")
        return [name.rstrip(" "), word]


def iterate_lines(path: Path, separator: str | None = None) -> Iterator[Line]:
    """Yield the lines of a text file that are not empty, read as they are asked for.

    Args:
        path: the file.
        separator: what stands between words; None: tabs, or else spaces.

    Raises:
        InputError: the file is missing, is not a regular one, or holds a zero byte, which no text in UTF-8 does.
    """
    try:
        with require_file(path, "a list").open(encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise InputError(f"{path}:{number} is not text in UTF-8: it holds a zero byte")
                if text := line.rstrip(_BLANKS):
                    yield Line(text, f"{path}:{number}", separator)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def read_lines(path: Path, separator: str | None = None) -> list[Line]:
    """Return all of :func:`iterate_lines`.

    Raises:
        InputError: as there, or the file is empty.
    """
    lines = list(iterate_lines(path, separator))
    if not lines:
        raise InputError(f"{path} is empty")
    return lines


def whole(word: str, line: Line) -> int:
    """Return the number that ``word`` of ``line`` is.

    Raises:
        InputError: it is not a whole number.
    """
    digits = word.strip(" ")
    if not digits.isdecimal() or len(digits) > _DIGITS:
        raise InputError(f"{line.where} has {word!r} where a whole number belongs")
    return int(digits)
