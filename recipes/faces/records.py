"""InsightFace's RecordIO, read and written without MXNet.

A ``.rec`` file is a row of records; the ``.idx`` beside it has one line ``key<TAB>byte offset`` for each. A record is
one or more parts, each ``u32 magic | u32 (cflag << 29 | length) | data | zeros up to a multiple of 4``. ``cflag`` 0 is
a whole record; 1, 2 and 3 are the first, a middle and the last part of one that held the magic at a multiple of 4. The
writer takes those four bytes out and a reader puts them back between the parts (dmlc-core, ``recordio.cc``).

The data is ``u32 flag | f32 label | u64 id | u64 id2`` (MXNet's ``IRHeader``), then ``flag`` float32 labels that take
the place of the one in the header, then an encoded image. InsightFace adds a layout: record 0 has no image and the
labels ``(id0, id_end)``. Records ``1 .. id0 - 1`` are the images. Records ``id0 .. id_end - 1`` are the people: no
image, and the labels ``(start, end)``, the half-open range of the records that show this person.
"""

from __future__ import annotations

import os
import struct
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recipes.faces.record_index import Ints, read_index, select_records
from reparam_kit import InputError, atomic_file, require_file

_MAGIC = struct.pack("<I", 0xCED7230A)
_PART = struct.Struct("<4sI")
_HEADER = struct.Struct("<IfQQ")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_MAX_LENGTH = (1 << 29) - 1
_MAX_LABEL = 1 << 24  # labels are float32: the whole numbers up to here are exact


@dataclass(frozen=True)
class Record:
    """One image as it is stored: the label of the person, negative where it is not known, and the encoded image."""

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
        start = self._file().read(min(length, _HEADER.size + 4))
        if (
            len(start) < _HEADER.size + 4
        ):  # the magic stands among the labels and cuts them, or there is no image
            return self.read(index).label
        count, label, _, _ = _HEADER.unpack_from(start)
        if count:
            (label,) = struct.unpack_from("<f", start, _HEADER.size)
        return self._label(label, key, offset)

    def identity_ranges(self) -> Ints:
        """The half-open range ``[start, end)`` of image indices of each person: int64 ``[C, 2]``.

        C is 0 where the file holds no identity records.

        Raises:
            InputError: an identity record is corrupt or points outside the images, or there are more than 2**24 of
                them: float32 holds their ranges rounded.
        """
        if len(self) >= _MAX_LABEL:
            raise InputError(
                f"{self.path} has {len(self):,} images: ranges beyond record {_MAX_LABEL:,} are rounded to float32; "
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
        rounded = firsts[firsts + 1 >= _MAX_LABEL]
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
        if abs(label) > _MAX_LABEL:
            raise InputError(
                f"{self._place(key, offset)} has the label {label:.0f}: float32 holds whole numbers up to {_MAX_LABEL} "
                "exactly, and beyond that two people share one; number them from 0"
            )
        return self._whole(label, key, offset)

    def _images_end(self, stored: int, keys: Ints, offsets: Ints) -> int:
        """Where the images end. Float32 holds it rounded beyond 2**24: the first identity near there shows it."""
        if stored < _MAX_LABEL:
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
        """``cflag`` and length of the part at byte ``at`` of the record that starts at byte ``start``."""
        if at + _PART.size > self._size:
            raise self._cut_short(key, start)
        file.seek(at)
        magic, word = _PART.unpack(file.read(_PART.size))
        flag, length = word >> 29, word & _MAX_LENGTH
        if magic != _MAGIC or flag not in ((_WHOLE, _FIRST) if at == start else (_MIDDLE, _LAST)):
            raise InputError(f"{self._place(key, start)} is corrupt: byte {at} does not begin a part of it")
        if at + _PART.size + _padded(length) > self._size:
            raise self._cut_short(key, start)
        return flag, length

    def _walk(self) -> tuple[Ints, Ints]:
        """Keys and byte offsets of all records, found from their headers."""
        starts = array("q")
        at = 0
        while at < self._size:
            starts.append(at)
            flag = _FIRST
            while flag in (_FIRST, _MIDDLE):
                flag, length = self._part(self._file(), len(starts) - 1, starts[-1], at)
                at += _PART.size + _padded(length)
        return np.arange(len(starts)), np.array(starts, np.int64)

    def _require_whole(self, keys: Ints, offsets: Ints) -> None:
        """Refuse a file or an index that was cut short now, not in mid-training or never."""
        last = offsets.argmax()
        self._read(keys[last], offsets[last])
        end = _padded(self._file().tell())
        if end < self._size:
            raise InputError(
                f"{self.path} goes on for {self._size - end:,} bytes behind the last record of its .idx, which was cut "
                "short or belongs to another file: remove the .idx, and the .rec is read without"
            )

    def _read(self, key: int, offset: int) -> tuple[tuple[float, ...], bytes]:
        """The first two labels, or the only one, and the image bytes of one record."""
        file = self._file()
        parts: list[bytes] = []
        flag, at = _FIRST, offset
        while flag in (_FIRST, _MIDDLE):
            flag, length = self._part(file, key, offset, at)
            parts.append(file.read(length))
            at += _PART.size + _padded(length)
        data = _MAGIC.join(parts)
        if len(data) < _HEADER.size:
            raise InputError(f"{self._place(key, offset)} is corrupt: {len(data)} bytes hold no label")
        count, label, _, _ = _HEADER.unpack_from(data)
        if count == 0:
            return (label,), data[_HEADER.size :]
        image = _HEADER.size + 4 * count
        if len(data) < image:
            raise InputError(
                f"{self._place(key, offset)} is corrupt: {len(data)} bytes hold no {count} labels"
            )
        return struct.unpack_from(f"<{min(count, 2)}f", data, _HEADER.size), data[image:]


def _rounding(number: int) -> int:
    """How far a whole number may be from the float32 ``number`` that it is stored as."""
    return 0 if number < _MAX_LABEL - 1 else int(np.spacing(np.float32(number)))


def write_records(
    path: str | os.PathLike[str],
    records: Iterable[tuple[int, bytes]],
    image_size: tuple[int, int] = (112, 112),
) -> None:
    """Write ``(label, encoded image)`` pairs as ``path`` with its ``.idx``, and ``property`` in the same folder.

    The layout is InsightFace's, which keeps each person's images together: the records are sorted by label, and those
    of one label stay in the order given.

    Args:
        path: the ``.rec`` file to write.
        records: labels in ``-2**24 .. 2**24``, which is what float32 holds exactly.
        image_size: height and width, for ``property``.

    Raises:
        InputError: the name does not end in ``.rec``, a label or the number of records is too large for the format,
            an image has 512 MiB or more, or the folder cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".rec":
        raise InputError(f"{path}: the name of a record file ends in .rec")
    images = sorted(records, key=itemgetter(0))
    people = [len(list(group)) for _, group in groupby(images, key=itemgetter(0))]
    largest = max([len(images) + len(people) + 1, *(abs(label) for label, _ in images)])
    if largest > _MAX_LABEL:
        raise InputError(
            f"{path}: labels and record numbers are float32 and end at {_MAX_LABEL}, not {largest}"
        )
    offset = 0
    with atomic_file(path) as rec, atomic_file(path.with_suffix(".idx")) as idx:
        for key, payload in enumerate(_payloads(images, people)):
            if len(payload) > _MAX_LENGTH:
                raise InputError(
                    f"{path}: record {key} has {len(payload)} bytes, more than the format's {_MAX_LENGTH}"
                )
            idx.write(f"{key}\t{offset}\n".encode())
            offset += rec.write(_encode(payload))
    with atomic_file(path.with_name("property")) as properties:
        properties.write(f"{len(people)},{image_size[0]},{image_size[1]}\n".encode())


def _payloads(images: list[tuple[int, bytes]], people: list[int]) -> Iterator[bytes]:
    """The data of every record: record 0, the images, and the identities with ``people[i]`` images each."""
    images_end = len(images) + 1
    yield _HEADER.pack(2, 0.0, 0, 0) + struct.pack("<2f", images_end, images_end + len(people))
    for key, (label, image) in enumerate(images, 1):
        yield _HEADER.pack(0, label, key, 0) + image
    start = 1
    for key, count in enumerate(people, images_end):
        yield _HEADER.pack(2, 0.0, key, 0) + struct.pack("<2f", start, start + count)
        start += count


def _encode(payload: bytes) -> bytes:
    """One record as dmlc-core writes it: cut where the magic stands at a multiple of 4, each part with its header."""
    cuts = []
    at = payload.find(_MAGIC)
    while at >= 0:
        if at % 4 == 0:
            cuts.append(at)
        at = payload.find(_MAGIC, at + 1)
    starts = [0, *(cut + len(_MAGIC) for cut in cuts)]
    ends = [*cuts, len(payload)]
    flags = [_FIRST, *[_MIDDLE] * (len(cuts) - 1), _LAST] if cuts else [_WHOLE]
    parts = []
    for flag, start, end in zip(flags, starts, ends, strict=True):
        length = end - start
        parts += [
            _PART.pack(_MAGIC, flag << 29 | length),
            payload[start:end],
            bytes(_padded(length) - length),
        ]
    return b"".join(parts)


def _padded(length: int) -> int:
    return length + -length % 4
