"""Embeddings on disk, in blocks with a checksum each: what is there and sound is kept, and the rest is computed.

The file is a ``.npy`` float16 ``[N, V, D]`` that anything reads as a memory map; behind the array stands the sha256 of
each block of it, over the block's rows, its number, and what the table is of. A block counts from the moment at which
its checksum is written, which is last. So a pass that was cut off goes on where it was, a block that is damaged is
computed again, and rows of another table, or in another order, do not count.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reparam_kit import InputError, atomic_file

BLOCK = 64  # images
_CHECKSUM = 32  # bytes


@dataclass
class TableFile:
    """A table of ``images`` times ``views`` rows: embeddings, logits or flattened maps.

    Attributes:
        path: the file.
        of: what the table is of, in any words that no other table has.
        size: D, of a row; 0 until that is known.
    """

    path: Path
    of: str
    images: int
    views: int
    size: int = 0

    @property
    def blocks(self) -> int:
        return -(-self.images // BLOCK)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.images, self.views, self.size)

    def numbers(self, block: int) -> range:
        """Return which images are in a block."""
        return range(block * BLOCK, min((block + 1) * BLOCK, self.images))

    def bytes_of(self, blocks: int) -> int:
        """Return the size on disk of that many blocks, with their checksums."""
        return blocks * (2 * BLOCK * self.views * self.size + _CHECKSUM)

    def rows(self) -> npt.NDArray[np.float16]:
        """Return the rows: a read-only memory map."""
        start = len(self._header())
        return np.memmap(self.path, "<f2", "r", start, self.shape)

    def sound(self) -> npt.NDArray[np.bool_]:
        """Return which blocks are there and match their checksums: bool ``[blocks]``. None of a file that is no such
        table.

        Raises:
            InputError: the file cannot be read.
        """
        sound = np.zeros(self.blocks, bool)
        if not self.path.is_file() or not self._fits():
            return sound
        rows, checksums = self.rows(), self._checksums()
        for block in range(self.blocks):
            part = rows[block * BLOCK : (block + 1) * BLOCK]
            sound[block] = checksums[block] == self._checksum(block, part.tobytes())
        return sound

    def create(self, size: int) -> None:
        """Write a table without a sound block, of embeddings of ``size``; an old file stays until it is there.

        Raises:
            InputError: there is no place for it.
        """
        self.size = size
        if self.path.is_symlink():  # to something else, which is not ours to replace
            self.path.unlink()
        with atomic_file(self.path) as file:
            file.write(self._header())
            file.truncate(self._length())

    def write(self, block: int, rows: npt.NDArray[np.floating]) -> None:
        """Put rows ``[n, V, D]`` in their place.

        Raises:
            InputError: the disk is full, or the file is gone.
        """
        content = rows.astype("<f2").tobytes()
        start, row = len(self._header()), 2 * self.views * self.size
        try:
            with self.path.open("r+b") as file:
                file.seek(start + block * BLOCK * row)
                file.write(content)
                file.seek(start + self.images * row + block * _CHECKSUM)
                file.write(self._checksum(block, content))
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}") from error

    def _fits(self) -> bool:
        """Return whether the file has the length and the header of a table of these images; sets ``size``."""
        try:
            with self.path.open("rb") as file:
                header = file.read(len(self._header()))
                length = file.seek(0, 2)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from error
        self.size = 0
        size, rest = divmod(length - self._length(), 2 * self.images * self.views)
        self.size = max(size, 0)
        return size > 0 and rest == 0 and header == self._header()

    def _header(self) -> bytes:
        header = BytesIO()
        shape = {"descr": "<f2", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, shape)
        return header.getvalue()

    def _length(self) -> int:
        return len(self._header()) + 2 * self.images * self.views * self.size + _CHECKSUM * self.blocks

    def _checksums(self) -> list[bytes]:
        with self.path.open("rb") as file:
            file.seek(-_CHECKSUM * self.blocks, 2)
            return [file.read(_CHECKSUM) for _ in range(self.blocks)]

    def _checksum(self, block: int, content: bytes) -> bytes:
        return hashlib.sha256(f"{self.of} {self.shape} {block}\n".encode() + content).digest()
