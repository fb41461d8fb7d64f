"""Shards of webdataset: tar files in which the files of one image share a name up to its first dot.

``000017.jpg`` is an image and ``000017.cls``, ``.json`` or ``.txt`` its label: a number, or in JSON the value of
``label``, ``labels``, ``target`` or ``y``. What else a sample holds is passed over. webdataset reads shards from their
beginning to their end; here the headers are read once, and then any image alone, so that training shows them in any
order and teachers' tables have a row for each.
"""

from __future__ import annotations

import json
import logging
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from recipes.faces.images.decoding import SUFFIXES
from recipes.faces.images.items import item_label
from recipes.faces.sets.faces import Faces
from recipes.faces.sets.label_lists import WHOLE
from recipes.faces.sets.tar import Member, iterate_members
from reparam_kit import InputError, printable

_log = logging.getLogger(__name__)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""How names of tar files end that have to be unpacked first."""

_RANGE = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}")
_LONGEST = 1 << 20  # bytes of a label
_LARGEST = 1 << 29  # bytes of an image
_MOST = 1_000_000  # shards


class FaceShards(Faces):
    """Images in webdataset's shards, by index: the order is that of the shards and of their members.

    Labels, whatever whole numbers they are, are numbered in ascending order; the label is -1 where a sample has none.
    Of an image 32 bytes are held in memory. A shard is opened for each image, so that any number of them can be read,
    in any process.

    Args:
        paths: the shards.
        size: as :class:`Faces`.

    Raises:
        InputError: as :func:`iterate_members`; there is no image, a sample has several, two samples of a shard have
            one name, or a label is no whole number.

    >>> import tarfile
    >>> with tarfile.open("shard-0000.tar", "w") as shard:
    ...     shard.add("photos/anna/0.png", "0.png")
    >>> len(read_faces("shard-0000.tar"))
    1
    """

    def __init__(self, paths: Sequence[Path], size: int | None = None) -> None:
        super().__init__(size)
        self.paths = list(paths)
        index, labels, passed_over = array("q"), array("q"), 0
        for number, path in enumerate(self.paths):
            for image, label in _samples(path):
                if image is None:
                    passed_over += 1
                    continue
                index.extend((number, image.offset, image.size))
                labels.append(label)
        if not index:
            raise InputError(
                f"{_named(self.paths)} no image (.jpg, .png and the like) in {passed_over:,} samples"
            )
        if passed_over:
            _log.warning(
                f"{_named(self.paths)} {passed_over:,} samples without an image, which are passed over"
            )
        self._index = np.frombuffer(index, np.int64).reshape(-1, 3)
        stored = np.frombuffer(labels, np.int64)
        people = np.unique(stored[stored >= 0])
        self._labels = np.where(stored < 0, -1, np.searchsorted(people, stored))
        self._count = len(people)

    @property
    def num_identities(self) -> int:
        return self._count

    def __len__(self) -> int:
        return len(self._labels)

    def encoded(self, index: int) -> tuple[bytes, int]:
        path, offset, size = self._place(index)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        if len(data) < size:
            raise InputError(f"{self.where(index)} is cut short: the file has changed since it was opened")
        return data, self.label(index)

    def label(self, index: int) -> int:
        self._place(index)
        return int(self._labels[index])

    def where(self, index: int) -> str:
        path, offset, _ = self._place(index)
        return f"{path}: the image at byte {offset}"

    def _place(self, index: int) -> tuple[Path, int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"{len(self.paths)} shards have {len(self)} images, there is no image {index}")
        number, offset, size = self._index[index].tolist()
        return self.paths[number], offset, size


def find_shards(path: Path) -> list[Path]:
    """Return the shards that ``path`` stands for: itself, or of ``name-{0000..0009}.tar`` each of the range."""
    found = None if path.exists() else _RANGE.search(os.fspath(path))
    if found is None:
        return [path]
    first, last = found[1], found[2]
    if not 0 <= int(last) - int(first) < _MOST:
        raise InputError(
            f"{path}: the range {found[0]} counts from a number up to another, {_MOST:,} at most"
        )
    text = os.fspath(path)
    before, behind = text[: found.start()], text[found.end() :]
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [shard for number in numbers for shard in find_shards(Path(f"{before}{number}{behind}"))]


def _samples(path: Path) -> Iterator[tuple[Member | None, int]]:
    """Yield the image and the label of every sample of a shard."""
    seen: set[str] = set()
    key, parts = None, dict[str, Member]()
    for member in iterate_members(path):
        folder, _, base = member.name.rpartition("/")
        stem, dot, ending = base.partition(".")
        if not stem or not dot:  # hidden, or of no sample
            continue
        if (folder, stem) != key:
            if parts:
                yield _image(path, parts), _label(path, parts)
            key, parts = (folder, stem), {}
            if f"{folder}/{stem}" in seen:
                raise InputError(
                    printable(f"{path}: two samples are called {folder}/{stem}".replace(" /", " "))
                )
            seen.add(f"{folder}/{stem}")
        if ending.lower() in parts:
            raise InputError(printable(f"{path}: the member {member.name!r} is there twice"))
        parts[ending.lower()] = member
    if parts:
        yield _image(path, parts), _label(path, parts)


def _image(path: Path, parts: dict[str, Member]) -> Member | None:
    """Return the only image of a sample, or the one whose name says nothing more than what it is."""
    images = [ending for ending in parts if f".{ending}".endswith(SUFFIXES)]
    plain = [ending for ending in images if f".{ending}" in SUFFIXES]
    if len(plain or images) > 1:
        names = ", ".join(parts[ending].name for ending in images)
        raise InputError(printable(f"{path}: a sample has several images, {names}: keep one of them"))
    image = parts[(plain or images)[0]] if images else None
    if image is not None and image.size > _LARGEST:
        raise InputError(
            printable(f"{path}: the image {image.name} has {image.size:,} bytes, more than {_LARGEST:,}")
        )
    return image


def _label(path: Path, parts: dict[str, Member]) -> int:
    for ending in ("cls", "json", "txt"):
        member = parts.get(ending)
        if member is None:
            continue
        label = _read_label(path, member, ending)
        if label is not None:
            return label
    return -1


def _read_label(path: Path, member: Member, ending: str) -> int | None:
    """Return the label in a member; None in a text that is no number, or JSON without one."""
    where = printable(f"{path}: {member.name}")
    if member.size > _LONGEST:
        if ending == "txt":
            return None
        raise InputError(f"{where} has {member.size:,} bytes, too many for a label")
    with path.open("rb") as file:
        file.seek(member.offset)
        data = file.read(member.size)
    if ending == "json":
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is not JSON") from error
        label = item_label(found, where) if isinstance(found, dict) else -1
        return None if label < 0 else label
    text = data.decode("utf-8", "replace").strip()
    if WHOLE.fullmatch(text):
        return int(text)
    if ending == "txt":  # a caption
        return None
    raise InputError(
        printable(f"{where} has the label {text[:40]!r}, not a whole number of at most 18 digits")
    )


def _named(paths: Sequence[Path]) -> str:
    return f"{paths[0]} has" if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} other shards have"
