"""What was last said of other images, which losses compare those of a batch with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.tsmr.targets.examples import Examples
from recipes.tsmr.targets.targets import StoredTargets

LENGTH = 32_768  # images: 84 MB of a 128-d student and a 512-d teacher


class Earlier(nn.Module):
    """The last embeddings that student and teacher gave of each of ``length`` images.

    A cross-batch memory (Wang et al., CVPR 2020). A net that is deployed knows faces already and moves little, so it
    need not begin empty: what was deployed has said something of every image. The pairs that decide a low error rate
    are so rare that a batch has none; among all images there are some for each.

    Args:
        size: D, of the student's.
        teacher_size: T, of the teacher's.
        length: as many images are remembered, ``LENGTH`` at most; the oldest make room for others.
    """

    _index: Tensor
    _student: Tensor
    _teacher: Tensor
    _next: Tensor

    def __init__(self, size: int, teacher_size: int, length: int) -> None:
        super().__init__()
        self._length = min(length, LENGTH)
        self._filled = 0
        self.register_buffer("_next", torch.tensor(0), persistent=False)
        self.register_buffer("_index", torch.zeros(self._length, dtype=torch.int64))
        self.register_buffer("_student", torch.zeros(self._length, size))
        self.register_buffer("_teacher", torch.zeros(self._length, teacher_size))

    @property
    def index(self) -> Tensor:
        """Which image each is of, int64 ``[Q]``."""
        return self._index[: self._filled]

    @property
    def student(self) -> Tensor:
        """Of length 1, float32 ``[Q, D]``."""
        return self._student[: self._filled]

    @property
    def teacher(self) -> Tensor:
        """Of length 1, float32 ``[Q, T]``."""
        return self._teacher[: self._filled]

    @classmethod
    def begin(cls, size: int, teacher_size: int, examples: Examples, seed: int) -> Earlier:
        """Remember what the deployed model and the teachers say of images drawn at random, where that is stored;
        where it is not, nothing yet.
        """
        if not isinstance(examples.old, StoredTargets):
            return cls(size, teacher_size, LENGTH)
        chosen = np.random.default_rng(seed).permutation(len(examples.views))[:LENGTH]
        memory = cls(size, teacher_size, len(chosen))
        memory._index.copy_(torch.from_numpy(chosen))
        memory._student.copy_(F.normalize(examples.old.originals(chosen), dim=1))
        memory._teacher.copy_(examples.targets.originals(chosen))
        memory.set_extra_state(len(chosen))
        return memory

    @torch.no_grad()
    def add(self, index: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Take in a batch, ``[N]``, ``[N, D]`` and ``[N, T]``; an image that is in it twice has one place."""
        known, places = find(index, self.index)
        first = (index[:, None] == index).int().argmax(dim=1)
        new = ~known & (first == torch.arange(len(index), device=index.device))
        places = torch.where(known, places, ((self._next + new.cumsum(0) - 1) % self._length)[first])
        self._index[places] = index
        self._student[places] = F.normalize(student, dim=1)
        self._teacher[places] = teacher
        self._next += new.sum()
        if self._filled < self._length:  # only as long, since to read a number waits for the device
            self._filled = min(int(self._next), self._length)

    def get_extra_state(self) -> int:
        """Return how many there have been."""
        return int(self._next)

    def set_extra_state(self, state: int) -> None:
        """Go on after as many."""
        self._next.fill_(state)
        self._filled = min(state, self._length)


def find(index: Tensor, among: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether each image of ``index`` ``[N]`` is ``among`` those of ``[Q]``, and where: bool, int64 ``[N]``."""
    if not len(among):
        return torch.zeros_like(index, dtype=torch.bool), torch.zeros_like(index)
    in_order, order = among.sort()
    at = torch.searchsorted(in_order, index.contiguous()).clamp_max(len(among) - 1)
    return in_order[at] == index, order[at]
