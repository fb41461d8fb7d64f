"""What the student is asked to match, and the training-only map that makes its embeddings comparable to the
teacher's.

Two nets trained apart put the same face at unrelated places of their embedding spaces, also where both have
the same size, because nothing in training ties the axes. The student's embedding is therefore mapped linearly
into the teacher's space before it is compared, and the map starts as the least-squares fit of the one to the
other: what is left to train is what the student does not know, not the way from one set of axes to another.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.tsmr.config import Loss


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of ``1 - cos(z, t)`` over the rows of two ``[N, D]``: the angle counts, the length of ``z`` does not."""
    return 1 - F.cosine_similarity(student, teacher, dim=1).mean()


def mse_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of ``|z - t|^2`` over the rows of two ``[N, D]``.

    Summed over the embedding, not averaged, so that its size does not depend on D. With rows of length 1 on
    both sides it would be twice the cosine loss, to the letter; here the length of ``z`` after the map counts
    too.
    """
    return (student - teacher).square().sum(dim=1).mean()


_LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {"cosine": cosine_loss, "mse": mse_loss}


class Distillation(nn.Module):
    """The distillation stage: ``loss(A s / |s|, t / |t|)`` for student embedding ``s`` and teacher embedding
    ``t``.

    A stage is a module that is trained beside the student and thrown away with the stage. Called with
    embeddings of the student and of the teacher for the same images, it returns its loss terms by name; their
    sum is minimised.

    Args:
        student_size: size of the student's embeddings.
        teacher_size: size of the teacher's.
        loss: "cosine" or "mse".
    """

    def __init__(self, student_size: int, teacher_size: int, loss: Loss) -> None:
        super().__init__()
        self.projection = nn.Linear(student_size, teacher_size, bias=False)
        self.loss = loss

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Terms for student embeddings ``[N, student_size]`` and unit teacher embeddings ``[N, teacher_size]``."""
        mapped = self.projection(F.normalize(student, dim=1))
        return {self.loss: _LOSSES[self.loss](mapped, teacher)}

    @torch.no_grad()
    def fit(self, student: Tensor, teacher: Tensor) -> None:
        """Start the projection at the ``A`` that minimises ``sum |A s / |s| - t|^2`` over a sample, in
        float64.

        The solution of least norm where the sample does not decide it.
        """
        source = F.normalize(student.double().cpu(), dim=1)
        solution = torch.linalg.lstsq(source, teacher.double().cpu(), driver="gelsd").solution
        self.projection.weight.copy_(solution.T)
