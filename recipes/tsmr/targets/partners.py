"""Pairs of images that batches of unrelated ones hardly ever show: two of one person, and two that a net confuses.

They are found once, before training, by what the teacher and the deployed model say of all images. An image is compared
with those of its block, so that the time grows with the number of images and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recipes.tsmr.targets.spread import ALIKE, DIFFERENT, MARGIN, Spread
from recipes.tsmr.targets.views import View

BLOCK = 32_768  # images that are compared with each other
_ROWS = 512  # of them at once
_MEASURED = 2048  # of them tell how unrelated faces are spread
_EACH = 4  # pairs of one kind in which an image comes first, at most
_NEAR = MARGIN - 1  # from where a pair of two people is one that the deployed model nearly confuses

Pairs = npt.NDArray[np.int64]


class Known(Protocol):
    """Of ``Targets``, what is said of images as they are."""

    def originals(self, index: npt.NDArray[np.int64]) -> Tensor: ...


@dataclass(frozen=True)
class Partners:
    """Pairs to show together.

    Attributes:
        alike: of one person, as the teacher says, int64 ``[P, 2]``.
        confused: of two people, as the teacher says, whom the deployed model takes for alike, int64 ``[C, 2]``.
    """

    alike: Pairs
    confused: Pairs

    @classmethod
    def find(cls, targets: Known, old: Known | None, images: int, seed: int) -> Partners:
        """Compare ``images`` by what the teachers say; without what the deployed model did, none are confused."""
        order = np.random.default_rng(seed).permutation(images)
        found = [
            _within(block, targets.originals(block), None if old is None else old.originals(block))
            for block in np.array_split(order, -(-images // BLOCK))
        ]
        alike, confused = zip(*found, strict=True)
        return cls(np.concatenate(alike), np.concatenate(confused))

    def order(self, images: int, batch_size: int, flip: bool, seed: int) -> Iterator[View]:
        """Yield as ``epoch_order``, but for half of each batch, which is pairs of either kind, drawn at random."""
        rng = np.random.default_rng(seed)
        kinds = [kind for kind in (self.alike, self.confused) if len(kind)]
        others = iter(rng.permutation(images))
        for _ in range(images // batch_size):
            drawn = [kinds[nth % len(kinds)] for nth in range(batch_size // 4)] if kinds else []
            batch = [int(index) for kind in drawn for index in kind[rng.integers(len(kind))]]
            batch += [int(next(others)) for _ in range(batch_size - len(batch))]
            mirrored = rng.random(batch_size) < 0.5
            yield from ((index, bool(flip and side)) for index, side in zip(batch, mirrored, strict=True))


def _within(block: npt.NDArray[np.int64], teacher: Tensor, old: Tensor | None) -> tuple[Pairs, Pairs]:
    """Pairs among the images ``block``, by their rows, of length 1."""
    theirs = Spread.of(teacher[:_MEASURED])
    near = torch.inf if old is None else Spread.of(old[:_MEASURED]).cosine(_NEAR)
    alike, confused = [], []
    for start in range(0, len(block), _ROWS):  # each pair once: with those of the same rows and after them
        rows = slice(start, start + _ROWS)
        said = teacher[rows] @ teacher[start:].T
        did = torch.zeros_like(said) if old is None else old[rows] @ old[start:].T
        later = torch.ones_like(said, dtype=torch.bool).triu(1)  # and no image with itself
        alike.append(start + _best(-did, later & (said > theirs.cosine(ALIKE))))
        confused.append(start + _best(did, later & (said < theirs.cosine(DIFFERENT)) & (did > near)))
    return block[torch.cat(alike).numpy()], block[torch.cat(confused).numpy()]


def _best(worth: Tensor, among: Tensor) -> Tensor:
    """Choose of each row the pairs of most ``worth`` that are ``among`` those asked for, ``_EACH`` at most:
    ``[P, 2]``.
    """
    values, columns = worth.masked_fill(~among, -torch.inf).topk(min(_EACH, worth.shape[1]), dim=1)
    row, nth = torch.nonzero(values > -torch.inf, as_tuple=True)
    return torch.stack([row, columns[row, nth]], dim=1)
