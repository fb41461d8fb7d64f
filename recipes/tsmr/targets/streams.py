"""Data that is read from its beginning to its end and has no numbers: an ``IterableDataset``, such as webdataset's.

Its first images are held: on them is done what a set is asked for beforehand (checks, calibration, the start of the
map between spaces). Training reads on and on, from the beginning again at the end, and an epoch is so many images of
that. Nothing of it can be stored for an image, so the teachers run on what is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from recipes.faces import item_image, read_faces
from recipes.faces.images.items import Item
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import ALONE, Processes
from recipes.tsmr.stages import LOSSES
from recipes.tsmr.targets.partners import Partners
from recipes.tsmr.targets.showing import Drawn, Showing, Shown
from recipes.tsmr.targets.views import Images, Views, as_from_here
from reparam_kit import InputError

_HELD = 2048  # images, at most
_HELD_BYTES = 1 << 28  # of them, unless a batch is larger


def open_views(data: str | Path | Images, config: TSMRConfig, processes: Processes) -> Views:
    """Open the training images; of a stream, its first ones.

    Raises:
        InputError: they cannot be read, or there are none.
    """
    if isinstance(data, IterableDataset):
        return Views(Stream(data, config, processes))
    views = Views(read_faces(data) if isinstance(data, str | Path) else data)
    if not len(views):
        raise InputError("there are no training images")
    return views


def require_batch(views: Views, config: TSMRConfig, processes: Processes) -> None:
    """Refuse images that do not fill a step; a stream tells when it ends."""
    if isinstance(views.images, Stream):
        return
    few = min(len(views), config.images or len(views))
    if few < config.images_of_step(processes.count):
        raise InputError(
            f"{few} training images do not fill a batch: lower batch_size={config.plan.batch_size}"
        )


class Stream(Dataset[Tensor]):
    """The first images of a stream, as a dataset.

    Args:
        source: the stream.
        config: of the run that is to train on it.
        processes: those that train together.

    Attributes:
        epoch: images in an epoch: whole steps of all processes.

    Raises:
        InputError: the choices need what a stream has not, it does not fill a step, or an item is no image.
    """

    def __init__(self, source: IterableDataset[Item], config: TSMRConfig, processes: Processes) -> None:
        _require_live(config)
        self.source = source
        step = config.images_of_step(processes.count)
        self.epoch = _steps(source, config.steps, step) * step
        self._images: list[Tensor] = []
        held = max(config.plan.batch_size, min(_HELD, self.epoch))
        for number, item in enumerate(islice(source, held)):
            self._images.append(item_image(item, f"training image {number}"))
            if number >= config.plan.batch_size and self._images[0].nbytes * number > _HELD_BYTES:
                break
        if len(self._images) < config.plan.batch_size:
            raise InputError(
                f"the stream ends after {len(self._images)} images, which do not fill a batch: lower "
                f"batch_size={config.plan.batch_size}"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index]


def _require_live(config: TSMRConfig) -> None:
    """Refuse choices that need every image to have a number, or to be known beforehand."""
    what = "the training data is a stream (IterableDataset), of which"
    if config.views != "live":
        raise InputError(
            f"{what} no teacher's answers are stored, as views={config.views!r} asks for: give views='live', or a "
            "dataset with a length (read_faces takes webdataset's shards)"
        )
    if config.augment.mix:
        raise InputError(f"{what} no image can be asked for to blend with another: leave out augment.mix")
    for name in config.losses:
        loss = LOSSES[name]
        if loss.paired or "labels" in loss.needs:
            raise InputError(
                f"{what} people and pairs are not known beforehand, as the loss {name!r} needs: leave it out, or give "
                "a dataset with a length (read_faces takes webdataset's shards)"
            )


def _steps(source: IterableDataset[Item], steps: int | None, step: int) -> int:
    """Steps in an epoch: as many as were asked for, or else as fit into the length of the stream."""
    if steps is not None:
        return steps
    try:
        length = len(source)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(
            "the training data is a stream (IterableDataset) without a length: say how many steps an epoch has (steps=)"
        ) from None
    if length < step:
        raise InputError(f"{length} training images do not fill a batch: lower batch_size")
    return int(length // step)


@dataclass
class _Running:
    """Batches that go on from one epoch to the next."""

    next: tuple[int, int] = (0, 0)  # the epoch that they go on with, and views of each image
    batches: Iterator[tuple[Shown, ...]] = field(default_factory=lambda: iter(()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Running, ()  # a process that reads images opens them itself


@dataclass(frozen=True)
class Streaming(Showing):
    """The showing of a stream: each epoch goes on where the one before ended."""

    _running: _Running = field(default_factory=_Running)

    def __len__(self) -> int:
        return self._stream.epoch

    @property
    def _stream(self) -> Stream:
        assert isinstance(self.views.images, Stream)
        return self.views.images

    def epoch(
        self,
        epoch: int,
        batch_size: int,
        workers: int,
        *,
        processes: Processes = ALONE,
        views: int = 1,
        batches: int | None = None,
        partners: Partners | None = None,
        pin_memory: bool = False,
    ) -> Iterator[tuple[Shown, ...]]:
        running = self._running
        if running.next != (epoch, views):
            drawing = _Drawing(self, (epoch - 1) * len(self), batch_size, processes, views)
            # One process reads it: several would have to share it out, which only some streams do.
            loader = DataLoader(
                drawing,
                views * batch_size,
                num_workers=min(workers, 1),
                pin_memory=pin_memory,
                generator=torch.Generator(),
            )
            running.batches = (shown.views(views) for shown in as_from_here(loader))
        running.next = epoch + 1, views
        return islice(running.batches, batches or len(self) // (processes.count * batch_size))


class _Drawing(IterableDataset[Shown]):
    """This process's images from number ``start`` on, without an end, as they are shown."""

    def __init__(
        self, showing: Streaming, start: int, batch_size: int, processes: Processes, views: int
    ) -> None:
        self._showing = showing
        self._source = showing._stream.source
        self._like = showing.views[0, False][0]
        self._start, self._batch_size, self._processes, self._views = start, batch_size, processes, views

    def __iter__(self) -> Iterator[Shown]:
        showing = self._showing
        drawn = Drawn(showing.views, showing.augment, showing.flip)
        items = islice(enumerate(_endless(self._source)), self._start, None)
        for number, item in self._processes.share(items, self._batch_size):
            image = item_image(item, f"image {number} of the stream")
            if image.dtype != self._like.dtype or image.shape != self._like.shape:
                raise InputError(
                    f"image {number} of the stream is {image.dtype} {list(image.shape)}; all must be as image 0, "
                    f"{self._like.dtype} {list(self._like.shape)}"
                )
            draws = showing.draws(1 + number // len(showing), False)
            yield from (drawn.of(image, number, draw) for draw in draws[: self._views])


def _endless(source: IterableDataset[Any]) -> Iterator[Any]:
    while True:
        count = 0
        for item in source:
            count += 1
            yield item
        if not count:
            raise InputError(
                "the stream gives no image when it is read again: its __iter__ has to begin anew each time"
            )
