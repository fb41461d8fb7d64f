"""Writing ``.rec`` files in InsightFace's layout."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

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
from reparam_kit import InputError, atomic_file


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

    >>> photos = [(person, path.read_bytes()) for person, path in enumerate(sorted(Path("photos").glob("*/0.png")))]
    >>> write_records("photos.rec", photos, image_size=(16, 16))
    >>> len(RecordFile("photos.rec"))
    3
    """
    path = Path(path)
    if path.suffix != ".rec":
        raise InputError(f"{path}: the name of a record file ends in .rec")
    images = sorted(records, key=itemgetter(0))
    people = [len(list(group)) for _, group in groupby(images, key=itemgetter(0))]
    largest = max([len(images) + len(people) + 1, *(abs(label) for label, _ in images)])
    if largest > MAX_LABEL:
        raise InputError(
            f"{path}: labels and record numbers are float32 and end at {MAX_LABEL}, not {largest}"
        )
    offset = 0
    with atomic_file(path) as rec, atomic_file(path.with_suffix(".idx")) as idx:
        for key, payload in enumerate(_payloads(images, people)):
            if len(payload) > MAX_LENGTH:
                raise InputError(
                    f"{path}: record {key} has {len(payload)} bytes, more than the format's {MAX_LENGTH}"
                )
            idx.write(f"{key}\t{offset}\n".encode())
            offset += rec.write(_encode(payload))
    with atomic_file(path.with_name("property")) as properties:
        properties.write(f"{len(people)},{image_size[0]},{image_size[1]}\n".encode())


def _payloads(images: list[tuple[int, bytes]], people: list[int]) -> Iterator[bytes]:
    """Yield the data of every record: record 0, the images, and the identities with ``people[i]`` images each."""
    images_end = len(images) + 1
    yield HEADER.pack(2, 0.0, 0, 0) + struct.pack("<2f", images_end, images_end + len(people))
    for key, (label, image) in enumerate(images, 1):
        yield HEADER.pack(0, label, key, 0) + image
    start = 1
    for key, count in enumerate(people, images_end):
        yield HEADER.pack(2, 0.0, key, 0) + struct.pack("<2f", start, start + count)
        start += count


def _encode(payload: bytes) -> bytes:
    """Return one record as dmlc-core writes it: cut where the magic stands at a multiple of 4, each part with its
    header.
    """
    cuts = []
    at = payload.find(MAGIC)
    while at >= 0:
        if at % 4 == 0:
            cuts.append(at)
        at = payload.find(MAGIC, at + 1)
    starts = [0, *(cut + len(MAGIC) for cut in cuts)]
    ends = [*cuts, len(payload)]
    flags = [FIRST, *[MIDDLE] * (len(cuts) - 1), LAST] if cuts else [WHOLE]
    parts = []
    for flag, start, end in zip(flags, starts, ends, strict=True):
        length = end - start
        parts += [
            PART.pack(MAGIC, flag << 29 | length),
            payload[start:end],
            bytes(padded(length) - length),
        ]
    return b"".join(parts)
