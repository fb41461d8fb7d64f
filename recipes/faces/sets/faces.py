"""What every set of images to train on is, and how the labels of any are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from recipes.faces.images.decoding import decode_image, fit_image
from recipes.faces.images.items import Items, item_label
from recipes.faces.images.kept import Kept
from reparam_kit import InputError


class Faces(Dataset[tuple[torch.Tensor, int, int]]):
    """``(image uint8 [3, H, W] RGB, label in 0 .. num_identities - 1, index)``, without augmentation.

    The label is -1 where the person is not known: where a negative number is stored, or is the name of the folder.

    All images have one size: the one asked for, to which others are centre-cropped and scaled (that aligns no face), or
    else that of image 0. Where the pixels of all take at most 64 MiB, each image is decoded once.

    Args:
        size: height and width.

    Raises:
        InputError: items raise it for an image that cannot be read or decoded, or that has another size where none was
            asked for. The message names the file.
    """

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._kept: Kept[npt.NDArray[np.uint8]] = Kept()

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
        pixels = torch.from_numpy(self._kept.get(index, len(self), lambda: self._decoded(index, data)))
        return pixels.permute(2, 0, 1).clone(memory_format=torch.contiguous_format), label, index

    def _decoded(self, index: int, data: bytes) -> npt.NDArray[np.uint8]:
        pixels = decode_image(data, self.where(index))
        if self._size is not None:
            return fit_image(pixels, self._size)
        if index != 0 and pixels.shape != self._first_shape:
            raise InputError(
                f"{self.where(index)} has {pixels.shape[0]}x{pixels.shape[1]} pixels, and image 0 "
                f"{self._first_shape[0]}x{self._first_shape[1]}: align the faces to one size, or give size= to crop "
                "and scale them"
            )
        return pixels

    @cached_property
    def _first_shape(self) -> tuple[int, ...]:
        return decode_image(self.encoded(0)[0], self.where(0)).shape

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int, int]]:
        return (self[i] for i in range(len(self)))


def read_labels(images: Items) -> npt.NDArray[np.int64]:
    """Return the label of every image of a dataset, int64 ``[N]``; negative where it is not known.

    Of face data no image is read; any other dataset is asked for every item.

    Raises:
        InputError: a label is no whole number.
    """
    if isinstance(images, Faces):
        labels: Iterable[int] = map(images.label, range(len(images)))
    else:
        labels = (item_label(images[index], f"image {index}") for index in range(len(images)))
    return np.fromiter(labels, np.int64, len(images))
