"""Margin softmax: identities as the classes of a softmax over cosines, the true one held back by a margin.

``MarginSoftmax`` learns a centre for each person. ``TeacherCentres`` takes the teacher's embeddings as
centres. Images whose label is negative take no part, so labelled and unlabelled faces can be mixed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.tsmr.objective.loss import Batch, Loss, Start
from recipes.tsmr.parts import Margin

_EPS = 1e-6  # keeps cosines from -1 and 1, where the derivative of arccos is infinite
_ADAFACE_H = 0.333
_NORM_SHARE = 0.01  # of a batch in AdaFace's running statistics


def arcface(cosines: Tensor, margin: float) -> Tensor:
    """Return ``cos(theta + m)`` of the true class (Deng et al., ArcFace, CVPR 2019, eq. 3).

    Beyond ``theta = pi - m``, where this would rise again, ``cos(theta) - m sin(m)`` (as its authors' code).
    Written without arccos.
    """
    sines = (1 - cosines.square()).clamp_min(_EPS).sqrt()
    shifted = cosines * math.cos(margin) - sines * math.sin(margin)
    return torch.where(cosines > -math.cos(margin), shifted, cosines - margin * math.sin(margin))


def cosface(cosines: Tensor, margin: float) -> Tensor:
    """Return ``cos(theta) - m`` of the true class (Wang et al., CosFace, CVPR 2018, eq. 4)."""
    return cosines - margin


def adaface(cosines: Tensor, margin: float, quality: Tensor) -> Tensor:
    """Return ``cos(theta - m q) - m (q + 1)`` for image quality ``q`` in -1..1 (Kim et al., AdaFace, CVPR 2022, eq.
    10).
    """
    angles = cosines.clamp(-1 + _EPS, 1 - _EPS).acos() - margin * quality
    return angles.clamp(_EPS, math.pi - _EPS).cos() - margin * (quality + 1)


class _Softmax(Loss, needs={"labels"}):
    """What both kinds of centres share: sampling of classes, the margin, the cross-entropy."""

    choices: Margin
    running: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()
        self.register_buffer("running", torch.tensor([0.0, 0.0]))  # mean and deviation of lengths
        self.register_buffer("seen", torch.tensor(0.0))

    def start(self, start: Start) -> None:
        self.choices = start.config.margin

    def seed(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def loss(self, embeddings: Tensor, lengths: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
        """Mean cross-entropy over the rows with a label; 0 where there is none.

        Args:
            embeddings: ``[N, D]``, of any length.
            lengths: those of the student's own embeddings ``[N]``, which AdaFace takes for image quality.
            labels: int64 ``[N]``.
            centres: ``[C, D]``, of any length.
        """
        known = labels >= 0
        labels, classes = self._sampled(labels, len(centres))
        if classes is not None:
            centres = centres[classes]
        cosines = F.linear(F.normalize(embeddings, dim=1), F.normalize(centres, dim=1))
        column = labels.clamp_min(0)[:, None]
        held_back = self._held_back(cosines.gather(1, column), lengths, known)
        logits = self.choices.scale * cosines.scatter(1, column, held_back)
        losses = F.cross_entropy(logits, column[:, 0], reduction="none")
        return torch.where(known, losses, 0).sum() / known.sum().clamp_min(1)

    def _held_back(self, cosines: Tensor, lengths: Tensor, known: Tensor) -> Tensor:
        if self.choices.kind == "adaface":
            quality = self._quality(lengths.detach(), known)[:, None]
            return adaface(cosines, self.choices.size, quality)
        return (arcface if self.choices.kind == "arcface" else cosface)(cosines, self.choices.size)

    def _quality(self, lengths: Tensor, known: Tensor) -> Tensor:
        """Length of the embedding against running mean and deviation, in -1..1 (AdaFace, eq. 8 and 9)."""
        if self.training:
            count = known.sum()
            mean = torch.where(known, lengths, 0).sum() / count.clamp_min(1)
            spread = torch.where(known, (lengths - mean).square(), 0).sum() / (count - 1).clamp_min(1)
            share = torch.where(count > 1, (1 / (self.seen + 1)).clamp_min(_NORM_SHARE), 0)
            self.running.lerp_(torch.stack([mean, spread.sqrt()]), share)
            self.seen += count > 1
        mean, deviation = self.running
        quality: Tensor = ((lengths - mean) / (deviation / _ADAFACE_H + 1e-3)).clamp(-1, 1)
        return quality

    def _sampled(self, labels: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
        """Labels as columns of the classes that take part, and these classes; None where all do.

        The classes of the batch, filled up with others at random: An et al., Partial FC, CVPR 2022. The
        generator's seed alone decides which, so that processes agree.
        """
        limit = self.choices.classes
        if limit is None or limit >= count:
            return labels, None
        scores = torch.rand(count, generator=self.generator).to(labels.device)
        present: Tensor = torch.unique(labels[labels >= 0])
        scores[present] = 2.0
        classes = scores.topk(max(limit, len(present))).indices.sort().values
        columns = torch.searchsorted(classes, labels.clamp_min(0)).clamp_max(len(classes) - 1)
        return torch.where(labels >= 0, columns, -1), classes


class MarginSoftmax(
    _Softmax, name="margin", title="margin softmax on identities", needs={"labels", "old"}, task="embeddings"
):
    """Margin softmax with centres ``[C, D]`` in the student's own space, learnt with it.

    They start at the mean of each person's embeddings by the model as it was, and at random for people without an
    image: a centre has to have a direction.
    """

    centres: nn.Parameter

    def start(self, start: Start) -> None:
        super().start(start)
        means = start.examples.identity_means("old")
        drawn = F.normalize(torch.randn_like(means), dim=1)
        self.centres = nn.Parameter(torch.where(means.any(dim=1, keepdim=True), means, drawn))

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(batch.student, batch.student.norm(dim=1), batch.labels, self.centres)


class TeacherCentres(
    _Softmax,
    name="centres",
    task="embeddings",
    title="margin softmax on the teacher's centres",
    needs={"labels", "mapped", "teacher"},
):
    """Margin softmax of the student's mapped embedding with centres ``[C, T]`` that follow the teacher's embeddings.

    AdaDistill (Boutros et al., ECCV 2024, eq. 6 to 8): ``w = a w + (1 - a) t`` with ``a = clip(cos(s, t)
    cos(w, t), 0, 1)``. While the student is far from the teacher a centre is the teacher's embedding of the
    image at hand; as it comes near, the centre becomes the mean over the person. Several images of a person in
    a batch are averaged.
    """

    centres: Tensor

    def start(self, start: Start) -> None:
        super().start(start)
        self.register_buffer("centres", start.examples.identity_means("teacher"))

    def forward(self, batch: Batch) -> Tensor:
        if self.training:
            self._follow(batch)
        # A copy, because the next batch changes the centres in place before this one's gradient may be taken.
        return self.loss(batch.mapped, batch.student.norm(dim=1), batch.labels, self.centres.clone())

    @torch.no_grad()
    def _follow(self, batch: Batch) -> None:
        rows = torch.where(batch.labels >= 0, batch.labels, len(self.centres))  # the last one is thrown away
        padded = torch.cat([self.centres, self.centres.new_zeros(1, self.centres.shape[1])])
        centres = padded[rows]
        keep = F.cosine_similarity(batch.mapped, batch.teacher) * F.cosine_similarity(centres, batch.teacher)
        keep = keep.clamp(0, 1)[:, None]
        moved = keep * centres + (1 - keep) * batch.teacher
        sums = torch.zeros_like(padded).index_add_(0, rows, moved)
        counts = padded.new_zeros(len(padded)).index_add_(0, rows, torch.ones_like(keep[:, 0]))[:, None]
        padded = torch.where(counts > 0, F.normalize(sums, dim=1), padded)
        self.centres.copy_(padded[:-1])
