"""Folders of people: which of their files are images of whom, and which are passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from recipes.faces.images.decoding import SUFFIXES
from reparam_kit import InputError

_HIDDEN, _SPECIAL, _AGAIN = "hidden", "broken links, pipes or devices", "links to folders that were read"
_LOOSE, _EMPTY = "images in the folder itself, of no person", "people without an image"
_SHOWN = 8


def find_people(root: Path) -> tuple[list[str], list[str], str]:
    """Return the images below the folders of ``root``, sorted by name: each one's path in ``root``, its person, and a
    report.

    A person is a folder of ``root`` with all that is below it. Links are followed, and each folder is read once for a
    person, so that a link to a folder above it leads nowhere.

    Returns:
        Paths, people, and one line about the files that are passed over: how many of which kind; empty where none are.

    Raises:
        InputError: a folder cannot be read.
    """
    names: list[str] = []
    people: list[str] = []
    passed: Counter[str] = Counter()
    above = {_identity(folder) for folder in (root, *root.resolve().parents)}
    for entry in _sorted(root):
        if entry.name.startswith("."):
            passed[_HIDDEN] += 1
        elif entry.is_dir():
            images = [os.path.relpath(file, root) for file in _images(entry.path, set(above), passed)]
            names += images
            people += [entry.name] * len(images)
            passed[_EMPTY] += not images
        else:
            passed[_LOOSE if _is_image(entry) else _kind(entry)] += 1
    return names, people, _report(root, +passed)


def find_images(root: Path) -> tuple[list[str], str]:
    """Find the images in a folder itself, sorted by name; and one line about what is passed over, as ``find_people``.

    Raises:
        InputError: the folder cannot be read.
    """
    names: list[str] = []
    passed: Counter[str] = Counter()
    for entry in _sorted(root):
        if entry.name.startswith("."):
            passed[_HIDDEN] += 1
        elif entry.is_dir():
            passed[_EMPTY] += 1
        elif _is_image(entry):
            names.append(entry.name)
        else:
            passed[_kind(entry)] += 1
    return names, _report(root, passed)


def _images(person: str, seen: set[tuple[int, int]], passed: Counter[str]) -> Iterator[str]:
    folders = [person]
    while folders:
        folder = folders.pop()
        if _identity(folder) in seen:
            passed[_AGAIN] += 1
            continue
        seen.add(_identity(folder))
        below = []
        for entry in _sorted(folder):
            if entry.name.startswith("."):
                passed[_HIDDEN] += 1
            elif entry.is_dir():
                below.append(entry.path)
            elif _is_image(entry):
                yield entry.path
            else:
                passed[_kind(entry)] += 1
        folders += reversed(below)


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.is_file() and entry.name.lower().endswith(SUFFIXES)


def _kind(entry: os.DirEntry[str]) -> str:
    if not entry.is_file():
        return _SPECIAL
    return os.path.splitext(entry.name)[1].lower() or "without a suffix"  # noqa: PTH122 - millions of names


def _identity(folder: str | Path) -> tuple[int, int]:
    info = os.stat(folder)  # noqa: PTH116 - as above
    return info.st_dev, info.st_ino


def _sorted(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror}") from error


def _report(root: Path, passed: Counter[str]) -> str:
    if not passed:
        return ""
    kinds = [f"{count:,} {kind}" for kind, count in passed.most_common(_SHOWN)]
    rest = sum(passed.values()) - sum(count for _, count in passed.most_common(_SHOWN))
    return f"{root}: passed over {', '.join(kinds)}{f', and {rest:,} of other kinds' if rest else ''}"
