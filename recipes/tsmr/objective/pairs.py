"""Losses of pairs: which faces are of one person, and which are near each other, as the teacher says it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.tsmr.objective.loss import Batch, Loss, Start
from recipes.tsmr.targets.spread import ALIKE, DIFFERENT, MARGIN, Spread

_PULL, _PUSH = 0.4, 4.0  # steepness towards pairs of one person, and of two
_TEMPERATURE = 0.5

_PAIRED = frozenset({"index", "teacher", "earlier_index", "earlier_student", "earlier_teacher"})


class _Pairs(Loss, task="embeddings"):
    """Compares each image of a batch with the others and with those of earlier batches."""

    teacher: Spread

    def start(self, start: Start) -> None:
        self.teacher = Spread.of(start.sample.teacher)

    def similarities(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Compare each image with every other, ``[N, N + Q]``: the student's and the teacher's, in units of
        their spreads; and which are of two images and not of one.

        The spread of the student is that of the pairs which the teacher calls two people now: it narrows as a weak
        student learns.
        """
        student = F.normalize(batch.student, dim=1)
        ours = student @ torch.cat([student, batch.earlier_student]).T
        theirs = self.teacher.standard(batch.teacher @ torch.cat([batch.teacher, batch.earlier_teacher]).T)
        two = batch.index[:, None] != torch.cat([batch.index, batch.earlier_index])
        unrelated = ours.detach()[two & (theirs < DIFFERENT)]
        if len(unrelated) > 1:
            ours = (ours - unrelated.mean()) / unrelated.std().clamp_min(1e-3)
        return ours, theirs, two


class NamedPairs(_Pairs, name="pairs", title="telling people apart as the teacher does", needs=_PAIRED):
    """Pairs that the teacher calls one person are drawn above the student's own margin, those it calls two below.

    Multi-similarity loss (Wang et al., CVPR 2019, eq. 15) on the teacher's word in place of labels.
    """

    paired = True

    def forward(self, batch: Batch) -> Tensor:
        ours, theirs, two = self.similarities(batch)
        pull = _softplus_sum(_PULL * (MARGIN - ours), two & (theirs > ALIKE)) / _PULL
        push = _softplus_sum(_PUSH * (ours - MARGIN), two & (theirs < DIFFERENT)) / _PUSH
        return (pull + push).mean()


class Neighbours(
    _Pairs, name="neighbours", title="similarities to other faces, as a distribution", needs=_PAIRED
):
    """Cross entropy of the student's similarities to other faces against the teacher's, each as a distribution.

    SEED (Fang et al., ICLR 2021, eq. 4), with one temperature in units of the two spreads.
    """

    def forward(self, batch: Batch) -> Tensor:
        ours, theirs, two = self.similarities(batch)
        wanted = (theirs / _TEMPERATURE).masked_fill(~two, -torch.inf).softmax(dim=1)
        given = (ours / _TEMPERATURE).masked_fill(~two, -torch.inf).log_softmax(dim=1)
        return F.kl_div(given.masked_fill(~two, 0), wanted, reduction="batchmean")


def _softplus_sum(values: Tensor, chosen: Tensor) -> Tensor:
    """Return ``log(1 + sum exp(values))`` over the ``chosen`` of each row."""
    kept = values.masked_fill(~chosen, -torch.inf)
    return torch.logsumexp(torch.cat([kept.new_zeros(len(kept), 1), kept], dim=1), dim=1)
