"""Images to train on, as one kind of dataset whatever they are stored as."""

from __future__ import annotations

import logging
import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from recipes.faces.images.decoding import decode_image, fit_image, read_image
from recipes.faces.images.items import Items, item_label
from recipes.faces.records import RecordFile
from recipes.faces.sets.folders import find_people
from recipes.faces.sets.label_lists import read_label_list
from reparam_kit import InputError, printable, require_file

_log = logging.getLogger(__name__)
_NEGATIVE = re.compile(r"-[0-9]+")


class Faces(Dataset[tuple[torch.Tensor, int, int]]):
    """``(image uint8 [3, H, W] RGB, label in 0 .. num_identities - 1, index)``, without augmentation.

    The label is -1 where the person is not known: where a negative number is stored, or is the name of the folder.

    All images have one size: the one asked for, to which others are centre-cropped and scaled (that aligns no face), or
    else that of image 0.

    Args:
        size: height and width.

    Raises:
        InputError: items raise it for an image that cannot be read or decoded, or that has another size where none was
            asked for. The message names the file.
    """

    def __init__(self, size: int | None) -> None:
        self._size = size

    @property
    @abstractmethod
    def num_identities(self) -> int:
        """How many people are known."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encoded(self, index: int) -> tuple[bytes, int]:
        """Return the image as it is stored, and its label."""

    @abstractmethod
    def label(self, index: int) -> int:
        """Return the label of image ``index``, which is not read for it; -1: not known."""

    @abstractmethod
    def where(self, index: int) -> str:
        """Return what messages call image ``index``."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        data, label = self.encoded(index)
        pixels = decode_image(data, self.where(index))
        if self._size is not None:
            pixels = fit_image(pixels, self._size)
        elif index != 0 and pixels.shape != self._first_shape:
            raise InputError(
                f"{self.where(index)} has {pixels.shape[0]}x{pixels.shape[1]} pixels, and image 0 "
                f"{self._first_shape[0]}x{self._first_shape[1]}: align the faces to one size, or give size= to crop "
                "and scale them"
            )
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), label, index

    @cached_property
    def _first_shape(self) -> tuple[int, ...]:
        return decode_image(self.encoded(0)[0], self.where(0)).shape

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int, int]]:
        return (self[i] for i in range(len(self)))


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
        return read_image(Path(self.where(index))), self.label(index)

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def where(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} images, and no image {index}")
        name = self._names[self._ends[index] : self._ends[index + 1]]
        return os.fsdecode(os.path.join(self._root, name))  # noqa: PTH118 - bytes


def read_labels(images: Items) -> npt.NDArray[np.int64]:
    """The label of every image of a dataset, int64 ``[N]``; negative where it is not known.

    Of face data no image is read; any other dataset is asked for every item.

    Raises:
        InputError: a label is no whole number.
    """
    if isinstance(images, Faces):
        labels: Iterable[int] = map(images.label, range(len(images)))
    else:
        labels = (item_label(images[index], f"image {index}") for index in range(len(images)))
    return np.fromiter(labels, np.int64, len(images))


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
    if not path.is_dir():
        require_file(path, "a .rec file, a folder of people, or a list of lines `path label`")
        if path.suffix.lower() == ".bin":
            raise InputError(f"{path} is a verification set (--val, --pairs), not training data")
        root = path.parent if images is None else Path(images)
        return FaceFiles(root, *read_label_list(path, root), size)
    records = sorted(file for file in path.iterdir() if _is_rec(file))
    if not records:
        return _folder(path, size)
    if any(file.is_dir() for file in path.iterdir()):
        _log.warning(printable(f"{path}: its .rec files are read, and the folders beside them are not"))
    return FaceRecords(records[0], size) if len(records) == 1 else FaceParts(records, size)


def _is_rec(path: Path) -> bool:
    return path.suffix.lower() == ".rec" and not path.name.startswith(".")


def _folder(path: Path, size: int | None) -> FaceFiles:
    names, people, passed_over = find_people(path)
    if not names:
        raise InputError(
            f"{path} has no .rec file and no folder of a person with images{passed_over and f'; {passed_over}'}"
        )
    if passed_over:
        _log.warning(printable(passed_over))
    return FaceFiles(path, names, people, size)
