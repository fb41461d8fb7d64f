"""Which view of each image an epoch shows: mirrored, changed and blended as seeds decide, in every process alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from recipes.faces.images.augment import Augmentation
from recipes.tsmr.choices import Taught
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import ALONE, Processes
from recipes.tsmr.parts import Augment
from recipes.tsmr.targets.partners import Partners
from recipes.tsmr.targets.views import Views, epoch_order, loaded

_UNCHANGED = Augment()
_FACTOR = 1_000_003  # between seeds of runs, epochs and images
_BLENDING = 0x6D69786D6978  # other numbers than those that change the image


class Draw(NamedTuple):
    """How one view of an image is made.

    Attributes:
        column: which of the stored views of the image it is, see ``Targets``.
        mirrored: left to right, before all else.
        seed: with the image's number it decides every change; None changes nothing.
    """

    column: int
    mirrored: bool
    seed: int | None


class Shown(NamedTuple):
    """A batch of images as they are shown.

    Attributes:
        images: ``[N, C, H, W]``, uint8 or already normalised.
        number: of each image, int64 ``[N]``.
        column: which of its stored views it is, int64 ``[N]``.
        blended: with another image, so that nobody is on it: bool ``[N]``.
    """

    images: Tensor
    number: Tensor
    column: Tensor
    blended: Tensor

    def views(self, count: int) -> tuple[Shown, ...]:
        """Return the batches that this one is of, where it holds ``count`` views of each image, one after the other."""
        return tuple(Shown(*(part[nth::count] for part in self)) for nth in range(count))

    def to(self, device: torch.device) -> Shown:
        """Return the same with its images on ``device``."""
        return self._replace(images=self.images.to(device, non_blocking=True))


@dataclass(frozen=True)
class Showing:
    """The views that the epochs of a run show, and those among them that a teacher is asked about beforehand.

    With ``taught="original"`` that is the image and its mirror image, whatever else happens to it before the student
    sees it. With "live" none is. With a number K these are the views of the first K epochs, which the
    later epochs show again.

    Attributes:
        views: the images.
        taught: ``TSMRConfig.views``.
        augment: what may happen to an image.
        flip: whether half of the images are mirrored.
        seed: of the run.
    """

    views: Views
    taught: Taught = "original"
    augment: Augment = _UNCHANGED
    flip: bool = False
    seed: int = 0

    @classmethod
    def of(cls, views: Views, config: TSMRConfig) -> Showing:
        """Those of a run."""
        return cls(views, config.views, config.augment, config.flip, config.seed)

    def __len__(self) -> int:
        return len(self.views)

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
        """Return the full batches of epoch ``epoch``, from 1, that are this process's: ``views``, 1 or 2, of each
        image.

        They are those of one pass over the images, or as many ``batches`` of this and the next passes. Of ``partners``,
        half of each batch are pairs. With ``pin_memory`` they lie where a GPU fetches them while it computes.
        """
        size = processes.count * batch_size
        batches = batches or len(self) // size
        passes = -(-batches * size // len(self))

        def one_pass(number: int) -> Iterator[tuple[int, tuple[Draw, ...]]]:
            seed = self._seed(number)
            order = (
                epoch_order(len(self), self.flip, seed)
                if partners is None
                else partners.order(len(self), size, self.flip, seed)
            )
            return ((index, self.draws(number, mirrored)[:views]) for index, mirrored in order)

        keys = chain.from_iterable(one_pass(number) for number in count((epoch - 1) * passes + 1))
        share = processes.share(islice(keys, batches * size), batch_size)
        return self._batches(share, views, batch_size, workers, pin_memory)

    def first(self, images: int, batch_size: int, workers: int) -> Iterator[Shown]:
        """Return the first ``images`` of the first epoch, at most, as teachers are asked about them."""

        def asked(mirrored: bool) -> Draw:
            drawn, _ = self.draws(1, mirrored)
            return drawn._replace(seed=None) if self.taught == "original" else drawn

        order = islice(epoch_order(len(self.views), self.flip, self._seed(1)), images)
        keys = ((index, (asked(mirrored),)) for index, mirrored in order)
        return (shown for (shown,) in self._batches(keys, 1, batch_size, workers))

    @property
    def columns(self) -> tuple[Draw, ...]:
        """The views of every image that a teacher is asked about beforehand."""
        if self.taught == "original":
            return (Draw(0, False, None), Draw(1, True, None))[: 1 + self.flip]
        if self.taught == "live":
            return ()
        kept = tuple(map(self._kept, range(self.taught)))
        return (*kept, Draw(self.taught, False, None)) if self.augment.mix else kept

    @property
    def person(self) -> int:
        """The column of a view that is no blend."""
        return self.taught if isinstance(self.taught, int) and self.augment.mix else 0

    @property
    def told(self) -> list[object]:
        """What the views of ``columns`` depend on besides the images."""
        if self.taught == "original":
            return [len(self.columns)]
        return [self.taught, self.seed, self.flip, asdict(self.augment)]

    def stored(self, index: Iterable[int], batch_size: int, workers: int) -> Iterator[tuple[Shown, ...]]:
        """Images ``index`` in each view of ``columns``."""
        keys = ((at, self.columns) for at in index)
        return self._batches(keys, len(self.columns), batch_size, workers)

    def draws(self, epoch: int, mirrored: bool) -> tuple[Draw, Draw]:
        """Return the view of an image in ``epoch``, and a second one."""
        if self.taught == "live":
            return Draw(0, False, self._seed(epoch)), Draw(0, False, self._seed(-epoch))
        if self.taught != "original":
            return self._kept(epoch - 1), self._kept(epoch)
        other = mirrored != self.flip
        return Draw(int(mirrored), mirrored, self._seed(epoch)), Draw(int(other), other, self._seed(-epoch))

    def _kept(self, number: int) -> Draw:
        """Stored view ``number`` of any image, from 0, which is the view of epoch ``number + 1``; they come again."""
        assert isinstance(self.taught, int)
        column = number % self.taught
        return Draw(column, False, self._seed(column + 1))

    def _seed(self, epoch: int) -> int:
        return mixed_seed(self.seed, epoch)

    def _batches(
        self,
        keys: Iterable[tuple[int, tuple[Draw, ...]]],
        views: int,
        batch_size: int,
        workers: int,
        pin_memory: bool = False,
    ) -> Iterator[tuple[Shown, ...]]:
        # Where the mirror image has targets of its own, what shows it is not chance among others.
        drawn = Drawn(self.views, self.augment, self.flip and self.taught != "original")
        flat = ((index, draw) for index, draws in keys for draw in draws)
        batches = loaded(drawn, flat, views * batch_size, workers, pin_memory=pin_memory)
        return (shown.views(views) for shown in batches)


class Drawn(Dataset[Shown]):
    """``drawn[index, draw]`` is this view of an image, with plain numbers, of which a loader makes a batch."""

    def __init__(self, views: Views, augment: Augment, flip: bool) -> None:
        self._views = views
        chances = asdict(augment)
        self._mix = chances.pop("mix")
        mirror = chances.pop("mirror")
        chances["flip"] = 0.5 if flip else mirror
        self._augmentation = Augmentation(**chances) if any(chances.values()) else None
        self._last: tuple[int, Tensor] | None = None  # views of one image follow each other

    def __getitem__(self, key: tuple[int, Draw]) -> Shown:
        index, draw = key
        if self._last is None or self._last[0] != index:
            self._last = index, self._views[index, False][0]
        return self.of(self._last[1], index, draw)

    def of(self, image: Tensor, index: int, draw: Draw) -> Shown:
        """Return the view ``draw`` of ``image``, whose number is ``index``."""
        image, blended = self._blend(self._changed(image, index, draw), index, draw)
        return Shown(image, index, draw.column, blended)  # type: ignore[arg-type]

    def _blend(self, image: Tensor, index: int, draw: Draw) -> tuple[Tensor, bool]:
        if draw.seed is None or not self._mix:
            return image, False
        random = torch.Generator().manual_seed(mixed_seed(draw.seed, index) ^ _BLENDING)
        chance, share = torch.rand(2, generator=random).tolist()
        if chance >= self._mix:
            return image, False
        other = int(torch.randint(len(self._views), (), generator=random))
        return _blended(image, self._changed(self._views[other, False][0], other, draw), share), True

    def _changed(self, image: Tensor, index: int, draw: Draw) -> Tensor:
        image = image.flip(-1) if draw.mirrored else image
        if draw.seed is None or self._augmentation is None:
            return image
        return self._augmentation(image, mixed_seed(draw.seed, index))


def mixed_seed(seed: int, number: int) -> int:
    """Return the seed of the epoch, or the image, of that number in a run of ``seed``."""
    return (seed * _FACTOR + number) % 2**63


def _blended(image: Tensor, other: Tensor, share: float) -> Tensor:
    """Return ``share`` of the other image in an image (Zhang et al., mixup, ICLR 2018, the share uniform in 0..1)."""
    mixed = torch.lerp(image.float(), other.float(), share)
    return mixed if image.is_floating_point() else mixed.round().to(image.dtype)
