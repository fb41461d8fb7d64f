"""Reading ``.rec`` files, an image at a time."""

from __future__ import annotations

import os
import struct
import threading
import weakref
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recipes.faces.records.index import Ints, read_index, select_records
from recipes.faces.records.layout import (
    FIRST,
    HEADER,
    LAST,
    MAGIC,
    MAX_LABEL,
    MAX_LENGTH,
    MIDDLE,
    PART,
    WHOLE,
    padded,
)
from reparam_kit import InputError, require_file


@dataclass(frozen=True)
class Record:
    """One image as it is stored: the label of the person, negative where it is not known, and the encoded image.

    >>> RecordFile("train.rec").read(0).label
    0
    """

    label: int
    image: bytes


class RecordFile:
    """The images of a ``.rec`` file, by index ``0 .. len - 1``.

    Nothing but the index is held in memory (16 bytes an image). The file is opened on the first read in each process
    and thread, so one instance may be pickled to, forked into and shared by data loader workers. Where there is no
    ``.idx`` beside the file, the ``.rec`` is walked once, header by header, and nothing is written.

    A file without InsightFace's record 0 (one written by ``im2rec``) has an image in every record.

    Args:
        path: the ``.rec`` file.

    Raises:
        InputError: the file or its index is missing, cut short or corrupt. The message names the file, and the record
            and byte offset where there is one.

    >>> records = RecordFile("train.rec")
    >>> len(records), records.label(5)
    (16, 1)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._local = threading.local()
        self._size = require_file(self.path, "a .rec file").stat().st_size
        index = self.path.with_suffix(".idx")
        keys, offsets = read_index(index) if index.exists() else self._walk()
        if not len(keys):
            raise InputError(f"{self.path} has no record")
        self._require_whole(keys, offsets)
        labels, image = self._read(keys[0], offsets[0])
        if len(labels) == 1 or image:
            images_end = identities_end = keys[-1] + 1
        else:
            images_end, identities_end = (self._whole(label, keys[0], offsets[0]) for label in labels)
            if not 1 <= images_end <= identities_end:
                raise InputError(
                    f"{self._place(keys[0], offsets[0])} says that images end at record {images_end} "
                    f"and identities at record {identities_end}"
                )
            if abs(int(keys[-1]) + 1 - identities_end) <= _rounding(identities_end):
                identities_end = int(keys[-1]) + 1
            keys, offsets = select_records(self.path, keys, offsets, identities_end)
            images_end = self._images_end(images_end, keys, offsets)
        cut = [np.searchsorted(keys, images_end)]
        self._keys, self._identity_keys = np.split(keys, cut)
        self._offsets, self._identity_offsets = np.split(offsets, cut)

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, index: int) -> Record:
        """Label and encoded image of image ``index``. Of an array of labels, the first counts.

        Raises:
            IndexError: ``index`` is not in ``0 .. len - 1``.
            InputError: the record is cut short or corrupt, or its label is no whole number that float32 holds exactly.
        """
        key, offset = self._entry(index)
        labels, image = self._read(key, offset)
        return Record(self._label(labels[0], key, offset), image)

    def label(self, index: int) -> int:
        """Label of image ``index``, without reading the image.

        Raises:
            IndexError, InputError: as :meth:`read`.
        """
        key, offset = self._entry(index)
        _, length = self._part(self._file(), key, offset, offset)
        start = self._file().read(min(length, HEADER.size + 4))
        if len(start) < HEADER.size + 4:
            # The magic stands among the labels and cuts them, or there is no image.
            return self.read(index).label
        count, label, _, _ = HEADER.unpack_from(start)
        if count:
            (label,) = struct.unpack_from("<f", start, HEADER.size)
        return self._label(label, key, offset)

    def identity_ranges(self) -> Ints:
        """Return the half-open range ``[start, end)`` of image indices of each person: int64 ``[C, 2]``.

        C is 0 where the file holds no identity records.

        Raises:
            InputError: an identity record is corrupt or points outside the images, or there are more than 2**24 of
                them: float32 holds their ranges rounded.
        """
        if len(self) >= MAX_LABEL:
            raise InputError(
                f"{self.path} has {len(self):,} images: ranges beyond record {MAX_LABEL:,} are rounded to float32; "
                "take the labels of the images"
            )
        return self._stored_ranges()

    def one_of_each(self) -> Ints:
        """Images among which each person of the identity ranges is; all images of a file without such ranges.

        They are the first of each range; where float32 holds it rounded, all that it may be.

        Raises:
            InputError: an identity record is corrupt or points outside the images.
        """
        if not len(self._identity_keys):
            return np.arange(len(self))
        ranges = self._stored_ranges()
        firsts = ranges[ranges[:, 0] < ranges[:, 1], 0]
        rounded = firsts[firsts + 1 >= MAX_LABEL]
        near = [
            np.arange(first - _rounding(first), first + _rounding(first) + 1) for first in rounded.tolist()
        ]
        firsts = np.unique(np.concatenate([firsts, *near]))
        return firsts[firsts < len(self)]

    def _stored_ranges(self) -> Ints:
        ranges = np.empty((len(self._identity_keys), 2), np.int64)
        for row, key, offset in zip(ranges, self._identity_keys, self._identity_offsets, strict=True):
            labels, _ = self._read(key, offset)
            bounds = [self._whole(label, key, offset) - 1 for label in labels]
            if len(bounds) < 2 or not 0 <= bounds[0] <= bounds[1] <= len(self) + _rounding(len(self)):
                raise InputError(f"{self._place(key, offset)} is not a range of the {len(self)} images")
            row[:] = bounds
        return ranges

    def where(self, index: int) -> str:
        """File, record number and byte offset of image ``index``, for messages about what it holds."""
        return self._place(*self._entry(index))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._local = threading.local()

    def _entry(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} images, there is no image {index}")
        return self._keys[index], self._offsets[index]

    def _place(self, key: int, offset: int) -> str:
        return f"{self.path}: record {key} at byte {offset}"

    def _cut_short(self, key: int, offset: int) -> InputError:
        return InputError(f"{self._place(key, offset)} is cut short: the file ends at byte {self._size}")

    def _whole(self, label: float, key: int, offset: int) -> int:
        if not label.is_integer():
            raise InputError(f"{self._place(key, offset)} has the label {label}, not a whole number")
        return int(label)

    def _label(self, label: float, key: int, offset: int) -> int:
        if abs(label) > MAX_LABEL:
            raise InputError(
                f"{self._place(key, offset)} has the label {label:.0f}: float32 holds whole numbers up to {MAX_LABEL} "
                "exactly, and beyond that two people share one; number them from 0"
            )
        return self._whole(label, key, offset)

    def _images_end(self, stored: int, keys: Ints, offsets: Ints) -> int:
        """Return where the images end. Float32 holds it rounded beyond 2**24: the first identity near there
        shows it.
        """
        if stored < MAX_LABEL:
            return stored
        for at in range(stored - _rounding(stored) - 1, min(stored + _rounding(stored), len(keys))):
            labels, image = self._read(keys[at], offsets[at])
            if len(labels) > 1 and not image:
                return int(keys[at])
        return stored

    def _file(self) -> BinaryIO:
        # A handle that came through a fork shares its position with the parent's, and threads would share it too.
        if getattr(self._local, "process", None) != os.getpid():
            # A buffer of one header: to read headers alone must not read what lies between them.
            self._local.file = self.path.open("rb", buffering=64)
            self._local.process = os.getpid()
            weakref.finalize(self, self._local.file.close)
        file: BinaryIO = self._local.file
        return file

    def _part(self, file: BinaryIO, key: int, start: int, at: int) -> tuple[int, int]:
        """Return ``cflag`` and length of the part at byte ``at`` of the record that starts at byte ``start``."""
        if at + PART.size > self._size:
            raise self._cut_short(key, start)
        file.seek(at)
        magic, word = PART.unpack(file.read(PART.size))
        flag, length = word >> 29, word & MAX_LENGTH
        if magic != MAGIC or flag not in ((WHOLE, FIRST) if at == start else (MIDDLE, LAST)):
            raise InputError(f"{self._place(key, start)} is corrupt: byte {at} does not begin a part of it")
        if at + PART.size + padded(length) > self._size:
            raise self._cut_short(key, start)
        return flag, length

    def _walk(self) -> tuple[Ints, Ints]:
        """Keys and byte offsets of all records, found from their headers."""
        starts = array("q")
        at = 0
        while at < self._size:
            starts.append(at)
            flag = FIRST
            while flag in (FIRST, MIDDLE):
                flag, length = self._part(self._file(), len(starts) - 1, starts[-1], at)
                at += PART.size + padded(length)
        return np.arange(len(starts)), np.array(starts, np.int64)

    def _require_whole(self, keys: Ints, offsets: Ints) -> None:
        """Refuse a file or an index that was cut short now, not in mid-training or never."""
        last = offsets.argmax()
        self._read(keys[last], offsets[last])
        end = padded(self._file().tell())
        if end < self._size:
            raise InputError(
                f"{self.path} goes on for {self._size - end:,} bytes behind the last record of its .idx, which was cut "
                "short or belongs to another file: remove the .idx, and the .rec is read without"
            )

    def _read(self, key: int, offset: int) -> tuple[tuple[float, ...], bytes]:
        """Return the first two labels, or the only one, and the image bytes of one record."""
        file = self._file()
        parts: list[bytes] = []
        flag, at = FIRST, offset
        while flag in (FIRST, MIDDLE):
            flag, length = self._part(file, key, offset, at)
            parts.append(file.read(length))
            at += PART.size + padded(length)
        data = MAGIC.join(parts)
        if len(data) < HEADER.size:
            raise InputError(f"{self._place(key, offset)} is corrupt: {len(data)} bytes hold no label")
        count, label, _, _ = HEADER.unpack_from(data)
        if count == 0:
            return (label,), data[HEADER.size :]
        image = HEADER.size + 4 * count
        if len(data) < image:
            raise InputError(
                f"{self._place(key, offset)} is corrupt: {len(data)} bytes hold no {count} labels"
            )
        return struct.unpack_from(f"<{min(count, 2)}f", data, HEADER.size), data[image:]


def _rounding(number: int) -> int:
    """Return how far a whole number may be from the float32 ``number`` that it is stored as."""
    return 0 if number < MAX_LABEL - 1 else int(np.spacing(np.float32(number)))
