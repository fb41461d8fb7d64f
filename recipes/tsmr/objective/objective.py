"""The training-only half of a run: the turn between the two spaces, and the weighted terms of a stage.

Two nets trained apart put the same face at unrelated places of their embedding spaces, also where both have
the same size, because nothing in training ties the axes. So the student's embedding is turned into the
teacher's space before the two are compared. A turn and no other map: deployment compares the student's
embeddings by their angles, a turn keeps every angle, and so what is learnt through it is learnt of what counts.
A map that is trained freely would learn in the student's stead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.tsmr.config import Stage, TSMRConfig
from recipes.tsmr.objective.losses import (
    Batch,
    Cosine,
    Gallery,
    HardPairs,
    HardSamples,
    Perturbed,
    Relational,
    SquaredDistance,
)
from recipes.tsmr.objective.margins import MarginSoftmax, TeacherCentres
from recipes.tsmr.targets.examples import Examples

_TERMS: dict[str, Callable[[], nn.Module]] = {
    "cosine": Cosine,
    "mse": SquaredDistance,
    "relational": Relational,
    "hard": HardSamples,
    "hard_pairs": HardPairs,
    "gallery": Gallery,
    "perturbed": Perturbed,
}


_NEW = 0.3  # share in the running mean of what was seen since the turn last followed


class Objective(nn.Module):
    """Trained beside the student through all stages, and thrown away.

    The turn is the matrix with orthonormal columns (rows, where the teacher's space is the smaller one) that brings
    the student's embeddings nearest to the teacher's (Schönemann, Psychometrika 1966). It follows from a running
    mean of their products and has no gradient.

    Args:
        student_size: size D of the student's embeddings.
        teacher_size: size T of the teacher's.
        identities: number of people; 0 where no term needs them.
        config: says which terms some stage has.
    """

    turn: Tensor  # [T, D]
    products: Tensor  # [D, T], running mean of student times teacher
    recent: Tensor  # [D, T], sum of the same since the turn last followed, over
    seen: Tensor  # images

    def __init__(self, student_size: int, teacher_size: int, identities: int, config: TSMRConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("turn", torch.eye(teacher_size, student_size))
        self.register_buffer("products", torch.zeros(student_size, teacher_size))
        self.register_buffer("recent", torch.zeros(student_size, teacher_size))
        self.register_buffer("seen", torch.zeros(()))
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

    def seed(self, seed: int) -> None:
        """Decide what the terms draw at random from here on."""
        for term in self.terms.values():
            if isinstance(term, MarginSoftmax | TeacherCentres):
                term.generator.manual_seed(seed)

    def map(self, student: Tensor) -> Tensor:
        """Student embeddings ``[N, D]``, of any length, at length 1 in the teacher's space ``[N, T]``.

        Shorter than 1 where the teacher's space is the smaller one: by what it has no room for.
        """
        return F.normalize(student, dim=1) @ self.turn.T

    def unmap(self, teacher: Tensor) -> Tensor:
        """Teacher embeddings ``[N, T]`` as the student would have to give them: of length 1, ``[N, D]``."""
        return F.normalize(teacher @ self.turn, dim=1)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the stage by name, without their weights."""
        return {name: self.terms[name](batch) for name in self.weights}

    @torch.no_grad()
    def fit(self, student: Tensor, teacher: Tensor) -> None:
        """Start the turn from a sample, ``[N, D]`` and ``[N, T]``."""
        self.observe(student, teacher)
        self.products.copy_(self.recent / self.seen)
        self.follow()

    @torch.no_grad()
    def observe(self, student: Tensor, teacher: Tensor) -> None:
        """Note a batch, ``[N, D]`` and ``[N, T]``, for the next time that the turn follows."""
        self.recent += F.normalize(student, dim=1).T @ teacher
        self.seen += len(student)

    @torch.no_grad()
    def follow(self) -> None:
        """Turn to where the student is now; in place, so not between a forward and its backward."""
        self.products.lerp_(self.recent / self.seen, _NEW)
        self.recent.zero_()
        self.seen.zero_()
        left, _, right = torch.linalg.svd(self.products.double(), full_matrices=False)
        self.turn.copy_((left @ right).T)

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
