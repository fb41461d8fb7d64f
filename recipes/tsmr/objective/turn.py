"""The map between the embedding spaces of student and teacher.

Two nets trained apart put the same face at unrelated places of their embedding spaces, also where both have
the same size, because nothing in training ties the axes. So the student's embedding is mapped into the
teacher's space before the two are compared, by an orthogonal map and no other: deployment compares the student's
embeddings by their angles, an orthogonal map keeps every angle, and so what is learnt through it is learnt of what
counts. A map that is trained freely would learn in the student's stead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.tsmr.targets.procrustes import procrustes

_NEW = 0.3  # share in the running mean of what was seen since the map last followed


class Same(nn.Module):
    """The map between outputs that name the same things, class by class or place by place: none."""

    def map(self, student: Tensor) -> Tensor:
        """Return what a student gives, as its teacher would."""
        return student

    def unmap(self, teacher: Tensor) -> Tensor:
        """Return what a teacher gives, as its student would have to."""
        return teacher

    def fit(self, student: Tensor, teacher: Tensor) -> None:
        """Start from a sample."""

    def observe(self, student: Tensor, teacher: Tensor) -> None:
        """Note a batch."""

    def follow(self) -> None:
        """Move to where the student is now."""


class Turn(Same):
    """The orthogonal Procrustes map from the student's space to the teacher's, which follows the student.

    It follows from a running mean of the products of their embeddings and has no gradient.

    Args:
        student_size: size D of the student's embeddings.
        teacher_size: size T of the teacher's.
    """

    matrix: Tensor  # [T, D]
    products: Tensor  # [D, T], running mean of student times teacher
    recent: Tensor  # [D, T], sum of the same since the map last followed, over
    seen: Tensor  # images

    def __init__(self, student_size: int, teacher_size: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(teacher_size, student_size))
        self.register_buffer("products", torch.zeros(student_size, teacher_size))
        self.register_buffer("recent", torch.zeros(student_size, teacher_size))
        self.register_buffer("seen", torch.zeros(()))

    def map(self, student: Tensor) -> Tensor:
        """Student embeddings ``[N, D]``, of any length, at length 1 in the teacher's space ``[N, T]``.

        Shorter than 1 where the teacher's space is the smaller one: by what it has no room for.
        """
        return F.normalize(student, dim=1) @ self.matrix.T

    def unmap(self, teacher: Tensor) -> Tensor:
        """Teacher embeddings ``[N, T]`` as the student would have to give them: of length 1, ``[N, D]``."""
        return F.normalize(teacher @ self.matrix, dim=1)

    @torch.no_grad()
    def fit(self, student: Tensor, teacher: Tensor) -> None:
        """Start from a sample, ``[N, D]`` and ``[N, T]``."""
        self.observe(student, teacher)
        self.products.copy_(self.recent / self.seen)
        self.follow()

    @torch.no_grad()
    def observe(self, student: Tensor, teacher: Tensor) -> None:
        """Note a batch, ``[N, D]`` and ``[N, T]``, for the next time that the map follows."""
        self.recent += F.normalize(student, dim=1).T @ teacher
        self.seen += len(student)

    @torch.no_grad()
    def follow(self) -> None:
        """Move to where the student is now; in place, so not between a forward and its backward."""
        self.products.lerp_(self.recent / self.seen, _NEW)
        self.recent.zero_()
        self.seen.zero_()
        self.matrix.copy_(procrustes(self.products).T)
