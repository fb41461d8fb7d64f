"""What a stage minimises: its losses with their weights, and the map between the spaces that they compare in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.objective.earlier import Earlier
from recipes.tsmr.objective.loss import Batch, Loss, Start
from recipes.tsmr.objective.turn import Same
from recipes.tsmr.stages import LOSSES, Stage
from recipes.tsmr.targets.description import described
from reparam_kit import InputError, fingerprint

_OURS = ("recipes", "reparam_kit")
_EARLIER = frozenset({"earlier_index", "earlier_student", "earlier_teacher"})
THROUGH_THE_MAP = frozenset({"mapped", "target", "perturbed"})
"""What is made by the map between the spaces, without which none has to follow the student."""


def needs(config: TSMRConfig) -> frozenset[str]:
    """Return what the losses of all stages need, see ``Batch``."""
    return frozenset().union(*(LOSSES[name].needs for name in config.losses))


def own_losses(config: TSMRConfig) -> dict[str, str]:
    """Return the sha256 of the code of each loss that is not this project's, by name; what it calls of ours has
    a version.
    """
    return {
        name: fingerprint(described(LOSSES[name], _OURS)) for name in config.losses if LOSSES.foreign(name)
    }


class Objective(nn.Module):
    """Trained beside the student through all stages, and thrown away.

    Args:
        turn: the map from the student's space to the teacher's; that of logits and maps is none, and where no loss
            looks through it there is none.
        config: says which losses some stage has.
    """

    def __init__(self, turn: Same, config: TSMRConfig) -> None:
        super().__init__()
        self.config = config
        self.turn = turn
        self.losses: dict[str, Loss] = {name: LOSSES[name]() for name in config.losses}
        self.parts = nn.ModuleDict(self.losses)
        self.earlier: Earlier | None = None
        self.active: dict[str, Loss] = {}
        self.weights: dict[str, float] = {}
        self._trained: dict[str, list[nn.Parameter]] = {}
        self._made: dict[str, int] = {}

    def start(self, start: Start) -> None:
        """Start every loss."""
        if needs(self.config) & _EARLIER:
            self.earlier = Earlier.begin(start.size, start.teacher_size, start.examples, self.config.seed)
        for name, loss in self.losses.items():
            loss.start(start)
            self._trained[name] = [p for p in loss.parameters() if p.requires_grad]

    def begin(self, stage: Stage) -> None:
        """Take the losses of ``stage``; what it does not use is not trained."""
        self.weights = self.config.weights(stage)
        self.active = {name: loss for name, loss in self.losses.items() if name in self.weights}
        for name, parameters in self._trained.items():
            for parameter in parameters:
                parameter.requires_grad_(name in self.active)
        for loss in self.active.values():
            loss.begin()
        self._made = {name: sum(1 for _ in loss.parameters()) for name, loss in self.active.items()}

    @property
    def needs(self) -> frozenset[str]:
        """What the losses of the stage need, see ``Batch``."""
        kept = frozenset() if self.earlier is None else frozenset({"index", "teacher"})
        return kept.union(*(loss.needs for loss in self.active.values()))

    @property
    def paired(self) -> bool:
        """Whether a loss of the stage asks for pairs that are hard to tell."""
        return any(loss.paired for loss in self.active.values())

    def seed(self, seed: int) -> None:
        """Decide what the losses draw at random from here on."""
        for loss in self.losses.values():
            loss.seed(seed)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses of the stage by name, without their weights.

        Raises:
            InputError: one is no number.
        """
        losses = {name: loss(batch) for name, loss in self.active.items()}
        for name, value in losses.items():
            if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
                found: object = type(value).__name__
                if isinstance(value, Tensor):
                    found = list(value.shape) if value.dim() else value.dtype
                raise InputError(
                    f"the loss {name!r} gives {found} and not one number: take the mean over the batch"
                )
        return losses

    def total(self, losses: dict[str, Tensor], done: float) -> Tensor:
        """Return the weighted sum of what ``forward`` gave, when the share ``done`` of the stage is over.

        Raises:
            InputError: it depends on nothing that is trained, or a weight is no number.
        """
        factors = {name: loss.weight(done) for name, loss in self.active.items()}
        for name, factor in factors.items():
            if not isinstance(factor, int | float | Tensor):
                raise InputError(
                    f"weight() of the loss {name!r} gives {type(factor).__name__} and not a number"
                )
        weights = {name: self.weights[name] * factor for name, factor in factors.items()}
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        if not total.requires_grad:
            raise InputError(
                f"nothing that is trained has a gradient by the losses {', '.join(losses)}: compute them of "
                "batch.student, without detach(), item() or argmax()"
            )
        return total

    def after_step(self, batch: Batch) -> None:
        """Let every loss of the stage follow a batch.

        Raises:
            InputError: one has made a parameter, which is too late.
        """
        if self.earlier is not None:
            self.earlier.add(batch.index, batch.student, batch.teacher)
        for name, loss in self.active.items():
            loss.after_step(batch)
            if sum(1 for _ in loss.parameters()) > self._made[name]:
                raise InputError(
                    f"the loss {name!r} made parameters in its first step, which nothing trains: make them in start()"
                )

    def figures(self) -> dict[str, float]:
        """Return what the losses of the stage show besides themselves, as "loss/figure"."""
        return {
            f"{name}/{figure}": value
            for name, loss in self.active.items()
            for figure, value in loss.figures().items()
        }
