"""Encoded images to pixels, and a ``.rec`` file as a dataset to train on."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset

from recipes.faces.records import RecordFile
from reparam_kit import InputError


def decode_image(data: bytes, where: str) -> npt.NDArray[np.uint8]:
    """A JPEG or PNG as uint8 RGB ``[H, W, 3]``. Grey, palette and CMYK images become RGB; transparency is dropped.

    Args:
        data: the encoded image.
        where: what the error calls it, such as ``"train.rec: record 17 at byte 40"``.

    Raises:
        InputError: it is neither format, is cut short or is otherwise damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{where} is not a JPEG or PNG that can be decoded: {error}") from error


class FaceRecords(Dataset[tuple[torch.Tensor, int, int]]):
    """A ``.rec`` file as ``(image uint8 [3, H, W] RGB, label in 0 .. num_identities - 1, index)``.

    The labels of the file, whatever whole numbers they are, are numbered in ascending order. They are taken from the
    first image of each identity range; a file without identity ranges is read through once.

    Args:
        path: the ``.rec`` file, or one that is open already.

    Raises:
        InputError: as :class:`RecordFile`. Items raise it for an image that cannot be decoded, or one whose label
            differs from those of its file's identity ranges.
    """

    def __init__(self, path: str | os.PathLike[str] | RecordFile) -> None:
        self.records = path if isinstance(path, RecordFile) else RecordFile(path)
        ranges = self.records.identity_ranges()
        firsts = ranges[ranges[:, 0] < ranges[:, 1], 0] if len(ranges) else range(len(self.records))
        self._labels = np.unique([self.records.read(int(i)).label for i in firsts])

    @property
    def num_identities(self) -> int:
        """How many people the file shows."""
        return len(self._labels)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int, int]:
        record = self.records.read(index)
        label = int(np.searchsorted(self._labels, record.label))
        if label == len(self._labels) or self._labels[label] != record.label:
            raise InputError(
                f"{self.records.where(index)} has the label {record.label}, which no identity range begins with"
            )
        pixels = decode_image(record.image, self.records.where(index))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), label, index

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int, int]]:
        return (self[i] for i in range(len(self)))
