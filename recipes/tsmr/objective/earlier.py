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

    def __init__(self, size: int, teacher_size: int, length: int) -> None:
        super().__init__()
        self._next = 0
        self._length = min(length, LENGTH)
        self.register_buffer("_index", torch.zeros(self._length, dtype=torch.int64))
        self.register_buffer("_student", torch.zeros(self._length, size))
        self.register_buffer("_teacher", torch.zeros(self._length, teacher_size))

    @property
    def _filled(self) -> int:
        return min(self._next, self._length)

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
        """Take in a batch, ``[N]``, ``[N, D]`` and ``[N, T]``."""
        known = index[:, None] == self.index
        new = ~known.any(dim=1)
        places = (self._next + new.cumsum(0) - 1) % self._length
        if self._filled:
            places = torch.where(new, places, known.int().argmax(dim=1))
        self._index[places] = index
        self._student[places] = F.normalize(student, dim=1)
        self._teacher[places] = teacher
        self._next += int(new.sum())

    def get_extra_state(self) -> int:
        """Return how many there have been."""
        return self._next

    def set_extra_state(self, state: int) -> None:
        """Go on after as many."""
        self._next = state
