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

import struct

MAGIC = struct.pack("<I", 0xCED7230A)
PART = struct.Struct("<4sI")
HEADER = struct.Struct("<IfQQ")
WHOLE, FIRST, MIDDLE, LAST = range(4)
MAX_LENGTH = (1 << 29) - 1
MAX_LABEL = 1 << 24  # labels are float32: the whole numbers up to here are exact


def padded(length: int) -> int:
    """Return ``length`` up to the next multiple of 4."""
    return length + -length % 4
