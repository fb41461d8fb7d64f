"""What the teachers say of the images that are shown: looked up in tables, or asked for as they are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.faces import Embedder
from recipes.tsmr.choices import Combine
from recipes.tsmr.targets.procrustes import procrustes
from recipes.tsmr.targets.showing import Shown
from recipes.tsmr.targets.task import EMBEDDINGS, Task
from recipes.tsmr.targets.views import Views

Combined: TypeAlias = Combine | Literal["average"]

_ALIGNED = 4096  # images on which teachers are mapped onto the first
_BATCH = 64  # images that a net is asked about at once, where no batch is given


class Targets(Protocol):
    """What is learnt of each image, from one or several nets that are not trained: an embedding of length 1, logits or
    a map.
    """

    @property
    def size(self) -> int:
        """T, of a row; of maps, their channels."""
        ...

    def rows(self, shown: Shown) -> Tensor:
        """Return what is learnt of a batch as it is shown, float32 ``[N, T]`` or maps, on the CPU or where its
        images are.
        """
        ...

    def originals(self, index: npt.NDArray[np.int64]) -> Tensor:
        """Return the same of images ``index``, none of them blended, float32 ``[N, T]`` or maps, on the CPU."""
        ...


At = tuple[npt.NDArray[np.int64], int | npt.NDArray[np.int64]]  # images, and which view of them


class Table(Protocol):
    """Rows float16 ``[N, V, D]``, maps flattened, read where they are asked for: an array, or some rows of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, at: At) -> npt.NDArray[np.float16]: ...


@dataclass(frozen=True)
class PartTable:
    """Of a table, the rows ``chosen``, which stay where they are."""

    table: Table
    chosen: npt.NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.chosen), *self.table.shape[1:])

    def __getitem__(self, at: At) -> npt.NDArray[np.float16]:
        index, view = at
        return self.table[self.chosen[index], view]


class StoredTargets:
    """Those of tables, each float16 ``[N, V, D_i]``: of V views of every image.

    Args:
        tables: of each teacher.
        combine: see ``Combination``.
        person: the view that is no blend.
        shape: of maps; empty for rows.
    """

    def __init__(
        self, tables: Sequence[Table], combine: Combined, person: int = 0, shape: tuple[int, ...] = ()
    ) -> None:
        self._tables = tables
        self._person = person
        self._shape = shape
        self._combination = Combination(combine, [table.shape[2] for table in tables])
        if self._combination.maps_wanted:
            sample = _sample(tables[0].shape[0])
            self._combination.fit([_rows(table[sample, person]) for table in tables])

    @property
    def size(self) -> int:
        return self._shape[0] if self._shape else self._combination.size

    def rows(self, shown: Shown) -> Tensor:
        return self._read((shown.number.numpy(), shown.column.numpy()))

    def originals(self, index: npt.NDArray[np.int64]) -> Tensor:
        return self._read((index, self._person))

    def _read(self, at: At) -> Tensor:
        rows = self._combination([_rows(table[at]) for table in self._tables])
        return rows.view(len(rows), *self._shape) if self._shape else rows


class LiveTargets:
    """Those of nets that run on the very images that are shown, on the device of the run.

    Args:
        embedders: the nets, on that device if they can be there.
        combine: see ``Combination``.
        views: all images.
        device: of the run.
        who: what messages call the nets.
        kind: what they give.

    Raises:
        InputError: an output is not finite, or an embedding zero; so do the methods.
    """

    def __init__(
        self,
        embedders: Sequence[Embedder],
        combine: Combined,
        views: Views,
        device: torch.device,
        who: str = "teacher",
        kind: Task = EMBEDDINGS,
    ) -> None:
        self._kind = kind
        self._embedders = embedders
        self._views = views
        self._device = device
        self._who = who
        few = self._asked(*self._read(np.arange(min(2, len(views)))))
        self._combination = Combination(combine, [rows.shape[1] for rows in few])
        if self._combination.maps_wanted:
            index = _sample(len(views))
            parts = [self._asked(*self._read(at)) for at in _split(index)]
            self._combination.fit([torch.cat(rows).cpu() for rows in zip(*parts, strict=True)])

    @property
    def size(self) -> int:
        return self._combination.size

    def rows(self, shown: Shown) -> Tensor:
        return self._combination(self._asked(shown.images, shown.number))

    def originals(self, index: npt.NDArray[np.int64]) -> Tensor:
        parts = [self._combination(self._asked(*self._read(at))).cpu() for at in _split(index)]
        return torch.cat(parts) if parts else torch.zeros(0, self.size)

    def _read(self, index: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        return torch.stack([self._views[int(at), False][0] for at in index]), torch.from_numpy(index)

    def _asked(self, images: Tensor, index: Tensor) -> list[Tensor]:
        """Return what each net says, on the device of the run."""
        images = images.to(self._device)
        with torch.autocast(self._device.type, enabled=False):
            return [
                self._kind.teacher(embed.rows(images).to(self._device), index, self._who)
                for embed in self._embedders
            ]


class Combination:
    """One row of those of several teachers.

    "concat" puts them one after the other; the similarity of two images is then the mean of what the teachers
    say. "mean" maps each onto the first by orthogonal Procrustes and averages, between spaces of different size too.
    "average" is the mean of logits or maps, as they are.

    Args:
        combine: how.
        sizes: of the rows, ``D_i``.
    """

    def __init__(self, combine: Combined, sizes: Sequence[int]) -> None:
        self._combine = combine
        self.size = sum(sizes) if combine == "concat" else sizes[0]
        self.maps_wanted = combine == "mean" and len(sizes) > 1
        self._maps: list[Tensor] = []

    def fit(self, sample: Sequence[Tensor]) -> None:
        """Find the maps from unit embeddings of the same images, ``[N, D_i]``."""
        first, *others = (rows.cpu().double() for rows in sample)
        self._maps = [procrustes(rows.T @ first).float().to(sample[0].device) for rows in others]

    def __call__(self, rows: Sequence[Tensor]) -> Tensor:
        """Combine rows of one net each, float32 ``[N, D_i]``, to ``[N, T]``."""
        first, *others = rows
        if not others:
            return first
        if self._combine == "average":
            return torch.stack(list(rows)).mean(dim=0)
        if self._combine == "concat":
            return torch.cat([first, *others], dim=1) / math.sqrt(len(rows))
        mapped = [one @ onto.to(one.device) for one, onto in zip(others, self._maps, strict=True)]
        mean: Tensor = F.normalize(torch.stack([first, *mapped]).sum(dim=0), dim=1)
        return mean


def _rows(embeddings: npt.NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(embeddings.astype(np.float32))


def _sample(images: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, images - 1, min(images, _ALIGNED)).astype(np.int64)


def _split(index: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    return np.split(index, range(_BATCH, len(index), _BATCH)) if len(index) else []
