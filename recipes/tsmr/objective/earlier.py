"""The embeddings of earlier batches, which losses compare those of a batch with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LENGTH = 4096  # embeddings: 10 MB of a 128-d student and a 512-d teacher


class Earlier(nn.Module):
    """The last embeddings of student and teacher, ``LENGTH`` at most, the latest first.

    Args:
        size: D, of the student's.
        teacher_size: T, of the teacher's.
    """

    _index: Tensor
    _student: Tensor
    _teacher: Tensor

    def __init__(self, size: int, teacher_size: int) -> None:
        super().__init__()
        self._filled = 0
        self.register_buffer("_index", torch.zeros(LENGTH, dtype=torch.int64))
        self.register_buffer("_student", torch.zeros(LENGTH, size))
        self.register_buffer("_teacher", torch.zeros(LENGTH, teacher_size))

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

    @torch.no_grad()
    def add(self, index: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Take in a batch, ``[N]``, ``[N, D]`` and ``[N, T]``; the oldest make room."""
        unit = F.normalize(student, dim=1)
        for memory, rows in ((self._index, index), (self._student, unit), (self._teacher, teacher)):
            memory.copy_(torch.cat([rows, memory])[:LENGTH])
        self._filled = min(self._filled + len(student), LENGTH)

    def get_extra_state(self) -> int:
        """Return how many there are."""
        return self._filled

    def set_extra_state(self, state: int) -> None:
        """Go on with as many."""
        self._filled = state
