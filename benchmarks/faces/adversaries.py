"""Other forms of the adversary, as losses of one's own: what the discriminator is shown, and how it is asked.

The recipe's (``recipes.tsmr.objective.adversarial``) shows it embeddings, the teacher's turned into the student's
space. These show it what both nets can agree on whatever the size of their embeddings, each in units of its own spread.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.tsmr import Batch, Start
from recipes.tsmr.objective.adversarial import Adversarial, Game

_OTHERS = 64  # whom an image is compared with
_EARLIER = {"teacher", "earlier_student", "earlier_teacher"}


def _units(cosines: Tensor) -> Tensor:
    """Cosines as distances from their mean, in standard deviations."""
    return (cosines - cosines.mean()) / cosines.std().clamp_min(1e-3)


class _Shown(Adversarial):
    """A game on rows made of cosines: the student's, and the teacher's of the same images."""

    size = _OTHERS

    def start(self, start: Start) -> None:
        super().start(replace(start, size=self.size))

    def rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the student's and the teacher's."""
        student, teacher = F.normalize(batch.student, dim=1), batch.teacher
        return self.shown(student @ batch.earlier_student.T), self.shown(teacher @ batch.earlier_teacher.T)

    def shown(self, cosines: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        return self._begun.loss(self.rows(batch)[0])

    def after_step(self, batch: Batch) -> None:
        self._begun.play(*self.rows(batch))


class Profiles(_Shown, name="adversarial_profiles", needs=_EARLIER, task="embeddings"):
    """Of each image, its cosines with the same 64 earlier ones."""

    def shown(self, cosines: Tensor) -> Tensor:
        return F.normalize(_units(cosines[:, : self.size]), dim=1)


class Neighbours(_Shown, name="adversarial_neighbours", needs=_EARLIER, task="embeddings"):
    """Of each image, its cosines with its 64 nearest among all earlier ones, in order."""

    def shown(self, cosines: Tensor) -> Tensor:
        nearest = _units(cosines).topk(self.size + 1, dim=1).values[:, 1:]
        return nearest / (5 * self.size**0.5)  # about as long as an embedding


class Pairs(_Shown, name="adversarial_pairs", needs={"teacher"}, task="embeddings"):
    """Of each pair of a batch, the teacher's cosine and the student's, against the teacher's twice."""

    size = 2

    def rows(self, batch: Batch) -> tuple[Tensor, Tensor]:
        first, second = torch.triu_indices(len(batch.student), len(batch.student), 1)
        student, teacher = (
            _units((rows @ rows.T)[first, second]) / 3
            for rows in (F.normalize(batch.student, dim=1), batch.teacher)
        )
        return torch.stack([teacher, student], dim=1), torch.stack([teacher, teacher], dim=1)


class _HingeGame(Game):
    """The hinge loss (Lim and Ye, Geometric GAN, 2017) in the place of the logarithm; it never stops learning."""

    def loss(self, student: Tensor) -> Tensor:
        return -self.discriminator(student).mean()

    def weight(self, done: float) -> Tensor:
        return torch.tensor(min(1.0, done / self.choices.warmup))

    def play(self, student: Tensor, teacher: Tensor) -> None:
        self.discriminator.requires_grad_(True)
        real, fake = self.discriminator(torch.cat([teacher, student.detach()])).chunk(2)
        self.optimizer.zero_grad()
        (F.relu(1 - real).mean() + F.relu(1 + fake).mean()).backward()
        self.optimizer.step()
        self.discriminator.requires_grad_(False)


class Hinge(Adversarial, name="adversarial_hinge", needs={"target"}, task="embeddings"):
    """The recipe's, with the hinge loss."""

    kind = _HingeGame
