"""The training images in the order and the mirror images that a seed decides, however many workers decode them."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipes.faces import item_image
from recipes.faces.images.items import Item
from reparam_kit import InputError, ReparamError, first_line

Images = Dataset[Item]
View = tuple[int, bool]
Given = TypeVar("Given")
_Batch = tuple[Tensor, Tensor, Tensor]


class Views(Dataset[tuple[Tensor, int, bool]]):
    """``views[index, mirrored]`` is ``(image [C, H, W], index, mirrored)``, of a dataset of any items that
    ``recipes.faces.item_image`` takes.

    Attributes:
        images: the dataset.
        shape: of each image, ``[C, H, W]``.
        dtype: uint8 of pixels, to which input presets are applied; or float32 of what is already normalised.

    Raises:
        InputError: there is no image, the first item is none, or its image differs when it is read again. Items
            raise it where an image is not as the first one.
    """

    def __init__(self, images: Images) -> None:
        self.images = images
        if not len(self):
            raise InputError("the training data has no image")
        first = _image(images, 0)
        self.shape, self.dtype = first.shape, first.dtype
        if not torch.equal(first, _image(images, 0)):
            raise InputError(
                "the training data gives another image each time it is asked for image 0: the teacher's embeddings are "
                "computed once, so leave augmentation out of the dataset (flip and augment change images)"
            )

    @property
    def pixels(self) -> bool:
        """Whether the images are pixels, and not normalised yet."""
        return self.dtype == torch.uint8

    def __len__(self) -> int:
        return len(self.images)  # type: ignore[arg-type]

    def __getitem__(self, view: View) -> tuple[Tensor, int, bool]:
        index, mirrored = view
        image = _image(self.images, index)
        if image.dtype != self.dtype or image.shape != self.shape:
            raise InputError(
                f"training image {index} is {image.dtype} {list(image.shape)}; all must be as image 0, {self.dtype} "
                f"{list(self.shape)}: align the faces first"
            )
        return (image.flip(-1) if mirrored else image), index, mirrored

    def first(self, count: int) -> Tensor:
        """Return the first images, at most ``count``: ``[N, C, H, W]``."""
        return torch.stack([self[i, False][0] for i in range(min(count, len(self)))])

    def batches(self, order: Iterable[View], batch_size: int, workers: int) -> Iterator[_Batch]:
        """Batches ``(images [N, C, H, W], index int64 [N], mirrored bool [N])`` in the order given."""
        return loaded(self, order, batch_size, workers)


def _image(images: Images, index: int) -> Tensor:
    return item_image(images[index], f"training image {index}")


def loaded(
    dataset: Dataset[Any], keys: Iterable[Any], batch_size: int, workers: int, *, pin_memory: bool = False
) -> Iterator[Any]:
    """Batches of the items ``keys`` of a dataset, read by ``workers`` processes.

    What is drawn at random elsewhere does not depend on how often this is called: a loader draws from a generator.
    """
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=keys,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
    )
    return as_from_here(loader)


def as_from_here(loader: Iterable[Given]) -> Iterator[Given]:
    """Return what a worker process raises, without the trace that torch puts before the message."""
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
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if "pickle" not in str(error):
            raise
        raise InputError(
            f"the dataset cannot be handed to processes that decode images ({first_line(error)}): define it at the top "
            "of a module and open what it holds when it is first read, or take workers=0"
        ) from None


class Part(Dataset[Item]):
    """Some of the images of a dataset, with their people numbered anew; a negative label is still not known.

    Where the labels are ``classes`` they keep their numbers, each of which is a logit's. What nets say of the images is
    computed with that of the whole set, unless they are ``alone``.
    """

    def __init__(
        self,
        images: Images,
        chosen: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        alone: bool = False,
        classes: bool = False,
    ) -> None:
        self.images = images
        self.chosen = chosen
        self.alone = alone
        taken = self.labels = labels[chosen]
        if not classes:
            self.labels = np.where(taken < 0, -1, np.searchsorted(np.unique(taken[taken >= 0]), taken))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return _image(self.images, int(self.chosen[index])), int(self.labels[index]), index


def epoch_order(length: int, flip: bool, seed: int) -> Iterator[View]:
    """Return all images once, in an order, and with ``flip`` about half of them mirrored, as ``seed`` decides."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(length, generator=generator).tolist()
    mirrored = (torch.rand(length, generator=generator) < 0.5).tolist()
    return ((index, flip and side) for index, side in zip(order, mirrored, strict=True))
