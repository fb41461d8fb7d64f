"""Images to train on, as one kind of dataset whatever they are stored as."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from recipes.faces.records import RecordFile
from recipes.faces.sets.faces import Faces
from recipes.faces.sets.folders import find_images, find_people
from recipes.faces.sets.label_lists import read_label_list
from recipes.faces.sets.market import JUNK, NOBODY, read_names
from recipes.faces.sets.shards import COMPRESSED, FaceShards, find_shards
from reparam_kit import InputError, printable, read_file, require_file

_log = logging.getLogger(__name__)
_NEGATIVE = re.compile(r"-[0-9]+")


class FaceRecords(Faces):
    """A ``.rec`` file.

    The labels of the file, whatever whole numbers they are, are numbered in ascending order, negative ones aside. They
    are taken from the first image of each identity range; of a file without identity ranges, such as a shuffled one,
    every label is read once, and no image.

    Args:
        path: the ``.rec`` file, or one that is open already.
        size: as :class:`Faces`.

    Raises:
        InputError: as :class:`RecordFile` and :class:`Faces`. Items also raise it for an image whose label differs from
            those of its file's identity ranges.

    >>> faces = FaceRecords("train.rec")
    >>> image, label, index = faces[5]
    >>> image.shape, label, index
    (torch.Size([3, 16, 16]), 1, 5)
    """

    def __init__(self, path: str | os.PathLike[str] | RecordFile, size: int | None = None) -> None:
        super().__init__(size)
        self.records = path if isinstance(path, RecordFile) else RecordFile(path)
        labels = np.unique(np.fromiter(map(self.records.label, self.records.one_of_each()), np.int64))
        self.labels = labels[labels >= 0]

    @property
    def num_identities(self) -> int:
        return len(self.labels)

    def __len__(self) -> int:
        return len(self.records)

    def encoded(self, index: int) -> tuple[bytes, int]:
        record = self.records.read(index)
        return record.image, self._number(index, record.label)

    def label(self, index: int) -> int:
        return self._number(index, self.records.label(index))

    def _number(self, index: int, stored: int) -> int:
        if stored < 0:
            return -1
        label = int(np.searchsorted(self.labels, stored))
        if label == len(self.labels) or self.labels[label] != stored:
            raise InputError(
                f"{self.where(index)} has the label {stored}, which no identity range begins with"
            )
        return label

    def where(self, index: int) -> str:
        return self.records.where(index)


class FaceParts(Faces):
    """One set in several ``.rec`` files: a label stands for the same person in each of them.

    Args:
        paths: the files, in the order in which their images are counted.
        size: as :class:`Faces`.

    Raises:
        InputError: as :class:`FaceRecords`.

    >>> faces = FaceParts(["train.rec"])
    >>> len(faces), faces.num_identities
    (16, 4)
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]], size: int | None = None) -> None:
        super().__init__(size)
        self.parts = [FaceRecords(path) for path in paths]
        self._ends = np.cumsum([len(part) for part in self.parts])
        labels = np.unique(np.concatenate([part.labels for part in self.parts]))
        self._labels = [np.searchsorted(labels, part.labels) for part in self.parts]
        self._count = len(labels)

    @property
    def num_identities(self) -> int:
        return self._count

    def __len__(self) -> int:
        return int(self._ends[-1])

    def encoded(self, index: int) -> tuple[bytes, int]:
        part, inside = self._place(index)
        data, label = self.parts[part].encoded(inside)
        return data, self._common(part, label)

    def label(self, index: int) -> int:
        part, inside = self._place(index)
        return self._common(part, self.parts[part].label(inside))

    def where(self, index: int) -> str:
        part, inside = self._place(index)
        return self.parts[part].where(inside)

    def _common(self, part: int, label: int) -> int:
        return int(self._labels[part][label]) if label >= 0 else -1

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"{len(self.parts)} files have {len(self)} images, there is no image {index}")
        part = int(np.searchsorted(self._ends, index, "right"))
        return part, index - int(self._ends[part]) + len(self.parts[part])


class FaceFiles(Faces):
    """Image files with labels of any kind, which are numbered in ascending order.

    Args:
        root: the folder that the names start in.
        names: a path for each image.
        labels: a number or a text for each image; one that is a negative whole number, or its text, is not known.
        size: as :class:`Faces`.

    >>> faces = FaceFiles(Path("photos"), ["anna/0.png", "ben/0.png"], ["anna", "ben"])
    >>> faces.num_identities, faces.label(1)
    (2, 1)
    """

    def __init__(
        self, root: Path, names: Sequence[str], labels: Sequence[int] | Sequence[str], size: int | None = None
    ) -> None:
        super().__init__(size)
        self._root = os.fsencode(root)
        # One block of bytes for all names: millions of str objects would be copied page by page into every worker.
        encoded = [os.fsencode(name) for name in names]
        self._names = b"".join(encoded)
        self._ends = np.fromiter(accumulate(map(len, encoded), initial=0), np.int64)
        distinct: set[Any] = set(labels)
        people = [label for label in sorted(distinct) if not _NEGATIVE.fullmatch(str(label))]
        numbers = {label: number for number, label in enumerate(people)}
        self._labels = np.fromiter((numbers.get(label, -1) for label in labels), np.int64)
        self._count = len(people)

    @property
    def num_identities(self) -> int:
        return self._count

    def __len__(self) -> int:
        return len(self._labels)

    def encoded(self, index: int) -> tuple[bytes, int]:
        return read_file(Path(self.where(index)), "an image"), self.label(index)

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def where(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} images, and no image {index}")
        name = self._names[self._ends[index] : self._ends[index + 1]]
        return os.fsdecode(os.path.join(self._root, name))  # noqa: PTH118 - bytes


def read_faces(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    size: int | None = None,
) -> Faces:
    """Open training images; what they are stored as shows in the path.

    - a ``.rec`` file; or a folder with one or more, which are then parts of one set
    - a folder of people: ``person/xxx.jpg``, at any depth below the person, who is the first folder. Links are
      followed. What is passed over (other files, hidden ones, images of no person) is counted in one line, which the
      logger ``recipes.faces.sets.datasets`` gives as a warning
    - a folder of images alone: Market-1501's names (``0002_c1s1_000451_03.jpg``) say the person,
      -1 and 0000 nobody known; of others nobody is known
    - webdataset's shards: a ``.tar``, a folder of them, or a range such as ``shards-{0000..0009}.tar``, see
      :class:`FaceShards`
    - a text file of lines ``path label``, the label a number or a name. The last spaces or the tab part them, so that
      the path may have spaces; there are no quotes and no comments

    A label that is negative means that the person is not known.

    Args:
        path: file or folder.
        images: the folder that the paths of a text file start in. None: the file's own.
        size: height and width of the images; others are centre-cropped and scaled. None: all must be as image 0.

    Raises:
        InputError: there is no such file, no image in it, or it is malformed; a line of a list names no file. The
            message names file and line.

    >>> image, label, index = read_faces("train.rec")[0]
    >>> image.shape, image.dtype, label
    (torch.Size([3, 16, 16]), torch.uint8, 0)
    """
    path = Path(path)
    if images is not None and (path.is_dir() or _is_rec(path)):
        raise InputError(f"{path} holds its images: leave out the image folder {images}")
    if _is_rec(path):
        return FaceRecords(path, size)
    if _is_shard(path):
        return FaceShards(find_shards(path), size)
    if not path.is_dir():
        require_file(
            path, "a .rec file, a folder of people, or a list of lines `path label`, or shards (.tar)"
        )
        if path.suffix.lower() == ".bin":
            raise InputError(f"{path} is a verification set (--val, --pairs), not training data")
        root = path.parent if images is None else Path(images)
        return FaceFiles(root, *read_label_list(path, root), size)
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    records, shards = list(filter(_is_rec, files)), list(filter(_is_shard, files))
    if records and shards:
        raise InputError(f"{path} has .rec files and shards (.tar): name the one or the other")
    if not records and not shards:
        return _folder(path, size)
    if any(file.is_dir() for file in files):
        kind = ".rec files" if records else "shards"
        _log.warning(printable(f"{path}: its {kind} are read, and the folders beside them are not"))
    if shards:
        return FaceShards(shards, size)
    return FaceRecords(records[0], size) if len(records) == 1 else FaceParts(records, size)


def _is_shard(path: Path) -> bool:
    return path.name.lower().endswith((".tar", *COMPRESSED)) and not path.is_dir()


def _is_rec(path: Path) -> bool:
    return path.suffix.lower() == ".rec" and not path.name.startswith(".")


def _folder(path: Path, size: int | None) -> FaceFiles:
    names, people, passed_over = find_people(path)
    if not names:
        names, passed_over = find_images(path)
        said = read_names(path, names)
        people = [JUNK] * len(names) if said is None else [JUNK if who == NOBODY else who for who, _ in said]
    if not names:
        raise InputError(
            f"{path} has no .rec file and no folder of a person with images, nor images or shards (.tar) itself"
            f"{passed_over and f'; {passed_over}'}"
        )
    if passed_over:
        _log.warning(printable(passed_over))
    return FaceFiles(path, names, people, size)
