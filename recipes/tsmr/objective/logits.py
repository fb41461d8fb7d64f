"""Losses of logits: a number for each class, of which a softmax makes probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.tsmr.objective.loss import Batch, Loss, Start
from reparam_kit import InputError


class _Softened(Loss, needs={"teacher"}, task="logits"):
    """Base of those that compare probabilities at a temperature with the teacher's."""

    temperature = 1.0

    def start(self, start: Start) -> None:
        self.temperature = start.config.temperature


class Divergence(_Softened, name="kl", title="divergence from the teacher's probabilities"):
    """``T^2 KL(teacher | student)`` of the probabilities at temperature T (Hinton et al., 2015, section 2).

    The factor keeps the size of the gradient when the temperature changes.
    """

    def forward(self, batch: Batch) -> Tensor:
        ours, theirs = (
            F.log_softmax(rows / self.temperature, dim=1) for rows in (batch.student, batch.teacher)
        )
        return self.temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class Correlation(_Softened, name="dist", title="correlation with the teacher's probabilities"):
    """One minus the correlation of the probabilities of each image, and of each class over the batch, with the
    teacher's (Huang et al., Knowledge distillation from a stronger teacher, NeurIPS 2022, eq. 7 to 9).

    What is asked for is the teacher's order, and not its sharpness: a student that is far smaller cannot match that.
    """

    def forward(self, batch: Batch) -> Tensor:
        ours, theirs = (F.softmax(rows / self.temperature, dim=1) for rows in (batch.student, batch.teacher))
        apart = _uncorrelated(ours, theirs) + _uncorrelated(ours.T, theirs.T)
        return self.temperature**2 * apart


class Labels(Loss, name="labels", title="cross entropy with the labels", needs={"labels"}, task="logits"):
    """Cross entropy with the label of each image that has one; the class ``i`` is the logit of that number."""

    def start(self, start: Start) -> None:
        labels = start.examples.labels
        highest = -1 if labels is None else int(labels.max(initial=-1))
        if highest >= start.size:
            raise InputError(
                f"the loss 'labels' takes a label for the number of a logit: the images have labels up to {highest}, "
                f"and the student {start.size} logits"
            )

    def forward(self, batch: Batch) -> Tensor:
        known = batch.labels >= 0
        total = F.cross_entropy(
            batch.student, torch.where(known, batch.labels, -1), ignore_index=-1, reduction="sum"
        )
        return total / known.sum().clamp_min(1)


def _uncorrelated(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean over the rows of one minus Pearson's correlation of each with that of the other."""
    ours, theirs = (rows - rows.mean(dim=1, keepdim=True) for rows in (ours, theirs))
    return 1 - F.cosine_similarity(ours, theirs, dim=1).mean()
