"""Losses of the embeddings of one batch.

Those that compare embeddings with the teacher's use the student's *mapped* embedding, see
``recipes.tsmr.objective.turn``. Those that compare embeddings with each other use the student's own, since these are
what is compared after deployment.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.tsmr.objective.loss import Batch, Loss

_HARD_SAMPLES = 0.25
_HARD_PAIRS = 0.1
_TO_TEACHER = frozenset({"mapped", "teacher"})


class Cosine(
    Loss,
    name="cosine",
    title="angle to the teacher, as one minus its cosine",
    needs=_TO_TEACHER,
    task="embeddings",
):
    """``1 - cos`` of the angle between the two."""

    def forward(self, batch: Batch) -> Tensor:
        return distances(batch.mapped, batch.teacher).mean()


class SquaredDistance(Loss, name="mse", title="squared distance to the teacher", needs=_TO_TEACHER):
    """``|z - t|^2``, summed over the embedding, so that its size does not depend on T.

    Twice the loss "cosine" where the teacher's space is as large as the student's or larger. Where it is smaller, this
    one forgives more of what falls outside.
    """

    def forward(self, batch: Batch) -> Tensor:
        return (batch.mapped - batch.teacher).square().sum(dim=1).mean()


class Relational(
    Loss,
    name="relational",
    title="similarities within a batch, against the teacher's",
    needs={"teacher"},
    task="embeddings",
):
    """``(cos(s_i, s_j) - cos(t_i, t_j))^2`` over all pairs of a batch.

    Similarity-preserving distillation (Tung and Mori, ICCV 2019, eq. 4) on cosines, as verification compares
    faces.
    """

    def forward(self, batch: Batch) -> Tensor:
        return pair_errors(batch).mean()


class HardSamples(
    Loss,
    name="hard",
    title="angle to the teacher, worst quarter of a batch",
    needs=_TO_TEACHER,
    task="embeddings",
):
    """The loss "cosine" over the quarter of the batch that is fitted worst (Shrivastava et al., OHEM, CVPR 2016)."""

    def forward(self, batch: Batch) -> Tensor:
        return _worst(distances(batch.mapped, batch.teacher), _HARD_SAMPLES)


class HardPairs(
    Loss,
    name="hard_pairs",
    title="similarities within a batch, worst tenth",
    needs={"teacher"},
    task="embeddings",
):
    """The loss "relational" over the tenth of the pairs that is fitted worst.

    Few pairs decide an error rate, those that a student puts on the wrong side: after Huang et al.,
    Evaluation-oriented knowledge distillation, CVPR 2022.
    """

    def forward(self, batch: Batch) -> Tensor:
        return _worst(pair_errors(batch), _HARD_PAIRS)


class Perturbed(
    Loss,
    name="perturbed",
    title="angle to the teacher, images changed on purpose",
    needs={"perturbed", "teacher"},
    task="embeddings",
):
    """The loss "cosine" for adversarially changed images and the teacher's embeddings of the unchanged ones."""

    def forward(self, batch: Batch) -> Tensor:
        return distances(batch.perturbed, batch.teacher).mean()


class Gallery(
    Loss, name="gallery", title="angle to the old model's embedding", needs={"old"}, task="embeddings"
):
    """``1 - cos(s, o)`` for the embedding ``o`` that the model gave of the same image before training.

    Both in the student's own space, so embeddings that were stored stay comparable with new ones (Shen et
    al., Towards backward-compatible representation learning, CVPR 2020, in the form of a regression to the
    old embedding, which needs no labels). The losses towards the teacher hardly stand against it: they see the
    student through a map that follows it.
    """

    def forward(self, batch: Batch) -> Tensor:
        return distances(F.normalize(batch.student, dim=1), batch.old).mean()


def distances(ours: Tensor, theirs: Tensor) -> Tensor:
    """Return ``1 - z . t`` for the rows of two ``[N, D]``, of length 1: ``[N]``.

    Not scaled again: a ``z`` that the map has shortened is one that the teacher's space has no room for.
    """
    return 1 - (ours * theirs).sum(dim=1)


def pair_errors(batch: Batch) -> Tensor:
    """Squared difference of the student's and the teacher's similarity of each pair of images: ``[N (N - 1) / 2]``."""
    ours, theirs = (F.normalize(rows, dim=1) for rows in (batch.student, batch.teacher))
    first, second = torch.triu_indices(len(ours), len(ours), offset=1, device=ours.device)
    return ((ours @ ours.T) - (theirs @ theirs.T))[first, second].square()


def _worst(errors: Tensor, share: float) -> Tensor:
    """Mean over the largest ``share`` of the errors, one at least."""
    return errors.topk(max(1, round(share * len(errors)))).values.mean()
