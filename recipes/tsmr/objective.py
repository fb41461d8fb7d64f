"""The training-only half of a run: the map into the teacher's space, and the weighted terms of a stage.

Two nets trained apart put the same face at unrelated places of their embedding spaces, also where both have
the same size, because nothing in training ties the axes. The student's embedding is therefore mapped linearly
into the teacher's space before it is compared, and the map starts as the least-squares fit of the one to the
other: what is left to train is what the student does not know, not the way from one set of axes to another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.tsmr.config import Stage, TSMRConfig
from recipes.tsmr.examples import Examples
from recipes.tsmr.losses import (
    Batch,
    Cosine,
    Gallery,
    HardPairs,
    HardSamples,
    Perturbed,
    Relational,
    SquaredDistance,
)
from recipes.tsmr.margins import MarginSoftmax, TeacherCentres

_TERMS: dict[str, Callable[[], nn.Module]] = {
    "cosine": Cosine,
    "mse": SquaredDistance,
    "relational": Relational,
    "hard": HardSamples,
    "hard_pairs": HardPairs,
    "gallery": Gallery,
    "perturbed": Perturbed,
}


class Objective(nn.Module):
    """Trained beside the student through all stages, and thrown away.

    Args:
        student_size: size D of the student's embeddings.
        teacher_size: size T of the teacher's.
        identities: number of people; 0 where no term needs them.
        config: says which terms some stage has.
    """

    def __init__(self, student_size: int, teacher_size: int, identities: int, config: TSMRConfig) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(student_size, teacher_size, bias=False)
        self.terms = nn.ModuleDict(
            {name: make() for name, make in _TERMS.items() if name != "gallery" and config.uses(name)}
        )
        if config.keep_gallery:
            self.terms["gallery"] = Gallery()
        if config.uses("margin"):
            self.terms["margin"] = MarginSoftmax(identities, student_size, config.margin)
        if config.uses("centres"):
            self.terms["centres"] = TeacherCentres(identities, teacher_size, config.margin)
        self.weights: dict[str, float] = {}

    def begin(self, stage: Stage) -> None:
        """Take the weights of ``stage``; what it does not use is not trained."""
        weights = {**stage.terms, "gallery": self.config.keep_gallery}
        self.weights = {name: weights[name] for name in self.terms if weights[name]}
        for name, term in self.terms.items():
            term.requires_grad_(name in self.weights)
        compared = any(stage.terms[name] for name in ("cosine", "mse", "hard", "centres", "perturbed"))
        self.projection.requires_grad_(compared or stage.adversarial > 0)

    def seed(self, seed: int) -> None:
        """Decide what the terms draw at random from here on."""
        for term in self.terms.values():
            if isinstance(term, MarginSoftmax | TeacherCentres):
                term.generator.manual_seed(seed)

    def map(self, student: Tensor) -> Tensor:
        """Student embeddings ``[N, D]``, of any length, in the teacher's space ``[N, T]``."""
        return cast("Tensor", self.projection(F.normalize(student, dim=1)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the stage by name, without their weights."""
        return {name: self.terms[name](batch) for name in self.weights}

    @torch.no_grad()
    def fit(self, student: Tensor, teacher: Tensor) -> None:
        """Start the map at the ``A`` that minimises ``sum |A s / |s| - t|^2`` over a sample, in float64.

        The solution of least norm where the sample does not decide it.
        """
        source = F.normalize(student.double().cpu(), dim=1)
        solution = torch.linalg.lstsq(source, teacher.double().cpu(), driver="gelsd").solution
        self.projection.weight.copy_(solution.T)

    @torch.no_grad()
    def start_centres(self, examples: Examples) -> None:
        """Start the centres of a margin softmax at the mean of each person's embeddings.

        Those that are learnt start at random for people without an image: a centre has to have a direction.
        """
        if "margin" in self.terms:
            centres = cast("MarginSoftmax", self.terms["margin"]).centres
            means = examples.identity_means("old")
            drawn = F.normalize(torch.randn_like(means), dim=1)
            centres.copy_(torch.where(means.any(dim=1, keepdim=True), means, drawn))
        if "centres" in self.terms:
            cast("TeacherCentres", self.terms["centres"]).centres.copy_(examples.identity_means("teacher"))
