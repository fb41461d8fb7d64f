"""Lists in text files, line by line, so that every complaint names its line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reparam_kit import InputError


@dataclass(frozen=True)
class Line:
    """A line that is not empty, cut into words, and its file and number."""

    words: list[str]
    where: str


def iterate_lines(path: Path, separator: str | None = None) -> Iterator[Line]:
    """The lines of a text file that are not empty, read as they are asked for.

    Args:
        path: the file.
        separator: what stands between words; None: white space.

    Raises:
        InputError: the file is missing, or not text in UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield Line([word.strip() for word in line.split(separator)], f"{path}:{number}")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8: {error.reason}") from error


def read_lines(path: Path, separator: str | None = None) -> list[Line]:
    """All of :func:`iterate_lines`.

    Raises:
        InputError: as there, or the file is empty.
    """
    lines = list(iterate_lines(path, separator))
    if not lines:
        raise InputError(f"{path} is empty")
    return lines


def whole(word: str, line: Line) -> int:
    """The number that ``word`` of ``line`` is.

    Raises:
        InputError: it is not a whole number.
    """
    if not word.isdecimal():
        raise InputError(f"{line.where} has {word!r} where a whole number belongs")
    return int(word)
