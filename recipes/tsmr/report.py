"""What a run did and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recipes.faces import Evaluation
from recipes.tsmr.config import TSMRConfig


@dataclass(frozen=True)
class EpochReport:
    """One epoch.

    Attributes:
        epoch: its number, from 1.
        losses: mean of each loss term over the epoch.
        images_per_second: training alone, without validation.
        validation: the folded student after the epoch; None without a validation set.
    """

    epoch: int
    losses: dict[str, float]
    images_per_second: float
    validation: Evaluation | None


@dataclass(frozen=True)
class TSMRReport:
    """A run.

    Attributes:
        config: the choices made.
        student: sha256 of the model that was passed in (structure and weights).
        teacher: sha256 of the teacher's file, or of its structure and weights.
        data: sha256 of what identifies the training images, see ``recipes.tsmr.teacher.data_identity``.
        images: number of training images.
        epochs: each epoch.
        before: the model as it was passed in; None without a validation set.
        after: the model that is returned. Since it was chosen on this set, the figure is optimistic: judge on
            another one.
        kept: the epoch whose weights are returned; 0 where none beat the model that was passed in, whose
            weights these are.
    """

    config: TSMRConfig
    student: str
    teacher: str
    data: str
    images: int
    epochs: tuple[EpochReport, ...]
    before: Evaluation | None
    after: Evaluation | None
    kept: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, the fields by their names."""

        def plain(evaluation: Evaluation | None) -> dict[str, Any] | None:
            return None if evaluation is None else evaluation.to_json()

        epochs = [{**vars(epoch), "validation": plain(epoch.validation)} for epoch in self.epochs]
        return {
            **vars(self),
            "config": self.config.to_json(),
            "epochs": epochs,
            "before": plain(self.before),
            "after": plain(self.after),
        }
