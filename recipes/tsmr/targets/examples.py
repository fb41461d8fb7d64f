"""What a student is trained on: images, what the teachers say of them, and who is on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.faces import Faces
from recipes.tsmr.choices import Combine
from recipes.tsmr.targets.procrustes import procrustes
from recipes.tsmr.targets.views import Images, Part, Views

At = tuple[npt.NDArray[np.int64], int | npt.NDArray[np.int64]]  # images, and 0 as seen or 1 mirrored


class Table(Protocol):
    """Unit embeddings float16 ``[N, V, D]``, read where they are asked for: an array, or some rows of one."""

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
        index, side = at
        return self.table[self.chosen[index], side]


_ALIGNED = 4096  # images on which teachers are mapped onto the first
_CHUNK = 65536  # images read at once where all are


class Targets:
    """One embedding of length 1 for each image, from those of one or several teachers.

    "concat" puts them one after the other; the similarity of two images is then the mean of what the teachers
    say. "mean" maps each onto the first by orthogonal Procrustes and averages, between spaces of different size too.

    Args:
        tables: embeddings of each teacher, float16 ``[N, V, D_i]``.
        combine: how.
    """

    def __init__(self, tables: Sequence[Table], combine: Combine) -> None:
        self.tables = tables
        self.combine = combine
        self._maps: list[Tensor] = []
        if combine == "mean":
            images = tables[0].shape[0]
            sample = np.linspace(0, images - 1, min(images, _ALIGNED)).astype(int)
            first, *others = (_rows(table[sample, 0]) for table in tables)
            self._maps = [procrustes(rows.T.double() @ first.double()).float() for rows in others]

    @property
    def size(self) -> int:
        """T, of the combined embeddings."""
        sizes = [table.shape[2] for table in self.tables]
        return sum(sizes) if self.combine == "concat" else sizes[0]

    def rows(self, index: npt.NDArray[np.int64], side: npt.NDArray[np.int64]) -> Tensor:
        """Embeddings of images ``index`` as seen (``side`` 0) or mirrored (1): float32 ``[N, T]``."""
        first, *others = (_rows(table[index, side]) for table in self.tables)
        if not others:
            return first
        if self.combine == "concat":
            return torch.cat([first, *others], dim=1) / math.sqrt(len(self.tables))
        mapped = [rows @ onto for rows, onto in zip(others, self._maps, strict=True)]
        mean: Tensor = F.normalize(torch.stack([first, *mapped]).sum(dim=0), dim=1)
        return mean


def _rows(embeddings: npt.NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(embeddings.astype(np.float32))


@dataclass(frozen=True)
class Examples:
    """The training images with all that is known of them.

    Attributes:
        views: the images.
        targets: the teachers' embeddings.
        labels: identity of each image, int64 ``[N]``; negative where it is not known. None unless a loss needs
            them.
        old: embeddings of the model as it was deployed, float16 ``[N, V, D]``; None unless a loss needs them.
    """

    views: Views
    targets: Targets
    labels: npt.NDArray[np.int64] | None = None
    old: Table | None = None

    @property
    def identities(self) -> int:
        """How many people; 0 where no loss needs to know."""
        return 0 if self.labels is None else int(self.labels.max(initial=-1)) + 1

    def known(self, index: Tensor, mirrored: Tensor) -> dict[str, Tensor]:
        """What is known of images as shown: "teacher" ``[N, T]``, and where a loss needs them "labels" ``[N]`` and
        "old" ``[N, D]``.
        """
        at, side = index.numpy(), mirrored.numpy().astype(int)
        known = {"teacher": self.targets.rows(at, side)}
        if self.labels is not None:
            known["labels"] = torch.from_numpy(self.labels[at])
        if self.old is not None:
            known["old"] = self._old_rows(at, side)
        return known

    def identity_means(self, of: Literal["old", "teacher"]) -> Tensor:
        """Mean direction of the embeddings of each person's images: unit rows ``[C, D]`` or ``[C, T]``.

        0 for a person without images.
        """
        assert self.labels is not None
        old = 0 if self.old is None else self.old.shape[2]
        means = torch.zeros(self.identities, self.targets.size if of == "teacher" else old)
        for at in np.array_split(np.flatnonzero(self.labels >= 0), -(-len(self.labels) // _CHUNK)):
            seen = np.zeros_like(at)
            rows = self.targets.rows(at, seen) if of == "teacher" else self._old_rows(at, seen)
            means.index_add_(0, torch.from_numpy(self.labels[at]), rows)
        return F.normalize(means, dim=1)

    def _old_rows(self, index: npt.NDArray[np.int64], side: npt.NDArray[np.int64]) -> Tensor:
        assert self.old is not None
        return _rows(self.old[index, side])


def identity_labels(images: Images) -> npt.NDArray[np.int64]:
    """Identity of every image, int64 ``[N]``.

    Of face data no image is read; any other dataset is asked for every item.
    """
    if isinstance(images, Part):
        return images.labels
    length = len(images)  # type: ignore[arg-type]
    if isinstance(images, Faces):
        return np.fromiter(map(images.label, range(length)), np.int64, length)
    return np.fromiter((images[index][1] for index in range(length)), np.int64, length)
