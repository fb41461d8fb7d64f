"""The training images in the order and the mirror images that a seed decides, however many workers decode them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipes.faces.images.augment import Augmentation
from recipes.tsmr.config import Augment
from reparam_kit import InputError, ReparamError, first_line

Images = Dataset[tuple[Tensor, int, int]]
View = tuple[int, bool]
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

    def batches(
        self,
        order: Iterable[View],
        batch_size: int,
        workers: int,
        *,
        drop_last: bool = False,
        changes: Changes | None = None,
        pin_memory: bool = False,
    ) -> Iterator[_Batch]:
        """Batches ``(images uint8 [N, 3, H, W], index int64 [N], mirrored bool [N])`` in the order given.

        With ``pin_memory`` they lie where a GPU fetches them while it computes.
        """
        shown = self if changes is None else _Changed(self, changes)
        loader = DataLoader(
            shown, batch_size, sampler=order, num_workers=workers, drop_last=drop_last, pin_memory=pin_memory
        )
        return _as_from_here(loader)


def _as_from_here(loader: Iterable[_Batch]) -> Iterator[_Batch]:
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


@dataclass(frozen=True)
class Changes:
    """Augmentation of an epoch: what happens to an image depends on ``seed`` and its index alone."""

    augmentation: Augmentation
    seed: int

    @classmethod
    def of(cls, choices: Augment, seed: int) -> Changes | None:
        """Those that ``choices`` ask for; None for none. Mirror images are not among them: they have targets."""
        return cls(Augmentation(flip=0.0, **vars(choices)), seed) if any(vars(choices).values()) else None

    def __call__(self, image: Tensor, index: int) -> Tensor:
        """``image`` number ``index``, changed."""
        return self.augmentation(image, (self.seed * 1_000_003 + index) % 2**63)


class _Changed(Dataset[tuple[Tensor, int, bool]]):
    def __init__(self, views: Views, changes: Changes) -> None:
        self.views = views
        self.changes = changes

    def __getitem__(self, view: View) -> tuple[Tensor, int, bool]:
        image, index, mirrored = self.views[view]
        return self.changes(image, index), index, mirrored


def epoch_order(length: int, flip: bool, seed: int) -> Iterator[View]:
    """All images once, in an order, and with ``flip`` about half of them mirrored, as ``seed`` decides."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(length, generator=generator).tolist()
    mirrored = (torch.rand(length, generator=generator) < 0.5).tolist()
    return ((index, flip and side) for index, side in zip(order, mirrored, strict=True))
