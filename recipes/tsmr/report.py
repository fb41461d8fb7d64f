"""What a run did and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
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

    def to_json(self) -> str:
        """The report as JSON, the fields by their names; a rate that the set is too small to measure is null."""
        fields = {**asdict(self), "config": self.config.to_dict()}
        return json.dumps(_nan_to_none(fields), indent=2)


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(item) for item in value]
    return None if value != value else value
