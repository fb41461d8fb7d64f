"""The training images in the order and the mirror images that a seed decides, however many workers decode them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reparam_kit import InputError, ReparamError, first_line

Images = Dataset[tuple[Tensor, int, int]]
View = tuple[int, bool]
Item = TypeVar("Item")
_Batch = tuple[Tensor, Tensor, Tensor]


def _image(item: object) -> Tensor:
    """The image of the first ``item`` of a dataset, of which nobody knows yet what it is."""
    image = item[0] if isinstance(item, list | tuple) and item else item
    if (
        image is item
        or not isinstance(image, Tensor)
        or image.dtype != torch.uint8
        or image.shape[:-2] != (3,)
    ):
        what = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise InputError(
            f"training image 0 is {what}: an item of the data is (image torch.uint8 [3, H, W] RGB, label, index)"
        )
    return image


class Views(Dataset[tuple[Tensor, int, bool]]):
    """``views[index, mirrored]`` is ``(image uint8 [3, H, W], index, mirrored)``, of a dataset ``(image,
    label, index)``.

    Raises:
        InputError: there is no image, the first item is of another kind, or its image differs when it is read
            again. Items raise it where an image is not uint8 of the first one's shape.
    """

    def __init__(self, images: Images) -> None:
        self.images = images
        if not len(self):
            raise InputError("the training data has no image")
        first = _image(images[0])
        self.shape = first.shape
        if not torch.equal(first, images[0][0]):
            raise InputError(
                "the training data gives another image each time it is asked for image 0: the teacher's embeddings are "
                "computed once, so leave augmentation out of the dataset (flip and augment change images)"
            )

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, view: View) -> tuple[Tensor, int, bool]:
        index, mirrored = view
        image = self.images[index][0]
        if image.dtype != torch.uint8 or image.shape != self.shape:
            raise InputError(
                f"training image {index} is {image.dtype} {list(image.shape)}; all must be torch.uint8 and of the size "
                f"of image 0, {list(self.shape)}: align the faces first"
            )
        return (image.flip(-1) if mirrored else image), index, mirrored

    def batches(self, order: Iterable[View], batch_size: int, workers: int) -> Iterator[_Batch]:
        """Batches ``(images uint8 [N, 3, H, W], index int64 [N], mirrored bool [N])`` in the order given."""
        return as_from_here(DataLoader(self, batch_size, sampler=order, num_workers=workers))


def as_from_here(loader: Iterable[Item]) -> Iterator[Item]:
    """What a worker process raises, without the trace that torch puts before the message."""
    try:
        yield from loader
    except ReparamError as error:
        last = str(error.args[0]).rstrip().rpartition("\n")[2]
        raise type(error)(
            last.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
        ) from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):  # how torch says that one is no more
            raise
        raise InputError(
            f"a process that decodes images was ended ({first_line(error)}): give it more memory, or fewer workers"
        ) from None


class Part(Dataset[tuple[Tensor, int, int]]):
    """Some of the images of a dataset, with their people numbered anew; a negative label is still not known."""

    def __init__(self, images: Images, chosen: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> None:
        self.images = images
        self.chosen = chosen
        taken = labels[chosen]
        self.labels = np.where(taken < 0, -1, np.searchsorted(np.unique(taken[taken >= 0]), taken))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.images[int(self.chosen[index])][0], int(self.labels[index]), index


def epoch_order(length: int, flip: bool, seed: int) -> Iterator[View]:
    """All images once, in an order, and with ``flip`` about half of them mirrored, as ``seed`` decides."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(length, generator=generator).tolist()
    mirrored = (torch.rand(length, generator=generator) < 0.5).tolist()
    return ((index, flip and side) for index, side in zip(order, mirrored, strict=True))
