"""The loss of pairs: which faces are of one person, as the teacher says it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.tsmr.objective.loss import Batch, Loss, Start
from recipes.tsmr.targets.spread import ALIKE, DIFFERENT, MARGIN, Spread

# Steepness towards pairs of one person, and of two. At 2 the many strangers that are near the margin count, and not the
# nearest alone, of which some are mistakes of the teacher's.
_PULL, _PUSH = 0.4, 2.0
_MEASURED = 4096  # of those remembered, from which the spread of unrelated pairs is told


class NamedPairs(
    Loss,
    name="pairs",
    title="telling people apart as the teacher does",
    # "old" begins the memory, and tells which pairs the deployed model confuses.
    needs={"index", "teacher", "old", "earlier_index", "earlier_student", "earlier_teacher"},
    task="embeddings",
):
    """Pairs that the teacher calls one person are drawn above the student's own margin, those it calls two below.

    Multi-similarity loss (Wang et al., CVPR 2019, eq. 15) on the teacher's word in place of labels, of each image of a
    batch with the others and with all that are remembered.
    """

    paired = True
    teacher: Spread

    def start(self, start: Start) -> None:
        self.teacher = Spread.of(start.sample.teacher)

    def forward(self, batch: Batch) -> Tensor:
        ours, alike, different = self.compared(batch)
        few = alike.any(dim=0).nonzero().squeeze(1)  # that are of one person with any
        pull = _softplus_sum(_PULL * (MARGIN - ours[:, few]), alike[:, few]) / _PULL
        push = _softplus_sum(_PUSH * (ours - MARGIN), different) / _PUSH
        return (pull + push).mean()

    def compared(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Compare each image with every other, ``[N, N + Q]``: by the student, in units of its spread; and whether the
        teacher calls them one person, or two.

        The spread of the student is that of the pairs which the teacher calls two people now: it narrows as a weak
        student learns.
        """
        student = F.normalize(batch.student, dim=1)
        ours = torch.cat([student @ student.T, student @ batch.earlier_student.T], dim=1)
        theirs = torch.cat([batch.teacher @ batch.teacher.T, batch.teacher @ batch.earlier_teacher.T], dim=1)
        theirs = self.teacher.standard(theirs)
        two_images = batch.index[:, None] != torch.cat([batch.index, batch.earlier_index])
        alike, different = two_images & (theirs > ALIKE), two_images & (theirs < DIFFERENT)
        few = slice(len(student) + _MEASURED)
        unrelated = ours.detach()[:, few][different[:, few]]
        if len(unrelated) > 1:
            ours = (ours - unrelated.mean()) / unrelated.std().clamp_min(1e-3)
        return ours, alike, different


def _softplus_sum(values: Tensor, chosen: Tensor) -> Tensor:
    """Return ``log(1 + sum exp(values))`` over the ``chosen`` of each row."""
    return F.softplus(values.masked_fill(~chosen, torch.finfo(values.dtype).min).logsumexp(dim=1))
