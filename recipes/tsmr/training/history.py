"""How a run has gone so far, which of its weights are the best, and how a checkpoint holds that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from recipes.faces import Evaluation
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.judging import rank
from recipes.tsmr.results import EpochReport


@dataclass
class History:
    """The epochs of a run, and the best weights of it.

    Attributes:
        inputs, teacher_scores, before: as in ``TSMRReport``.
        weights: of the model that is returned, so far.
        kept: the epoch that they are from; 0 for those of the model as it was passed in.
        epochs: all of them.
    """

    inputs: dict[str, Evaluation]
    teacher_scores: tuple[Evaluation, ...]
    before: Evaluation | None
    weights: dict[str, Tensor]
    kept: int = 0
    epochs: list[EpochReport] = field(default_factory=list)

    @property
    def best(self) -> Evaluation | None:
        """The evaluation of ``weights``."""
        return self.epochs[self.kept - 1].validation if self.kept else self.before

    def add(self, epoch: EpochReport, weights: dict[str, Tensor]) -> None:
        """Take in an epoch and its folded weights, and keep these if they are better or cannot be judged."""
        best = self.best
        self.epochs.append(epoch)
        if epoch.validation is None or best is None or rank(epoch.validation) > rank(best):
            self.kept, self.weights = epoch.epoch, weights

    def require_fit(self, model: nn.Module, config: TSMRConfig) -> None:
        """Raise ValueError where this is no history of ``model`` under ``config``."""
        if not 0 <= self.kept <= len(self.epochs) <= config.epochs:
            raise ValueError(f"it keeps epoch {self.kept} of {len(self.epochs)}, of a run of {config.epochs}")
        if [epoch.epoch for epoch in self.epochs] != list(range(1, len(self.epochs) + 1)):
            raise ValueError("its epochs are not numbered one by one")
        wanted = model.state_dict()
        if self.weights.keys() != wanted.keys():
            raise ValueError("its weights have other names than the model's")
        for name, tensor in wanted.items():
            found = self.weights[name]
            if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(
                    f"{name} is {found.dtype} {list(found.shape)}, in the model {list(tensor.shape)}"
                )
            if tensor.isfinite().all() and not found.isfinite().all():
                raise ValueError(f"{name} is not finite")

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and text: what can be read without running anything."""
        return {
            "inputs": {name: _packed(evaluation) for name, evaluation in self.inputs.items()},
            "teacher_scores": [_packed(evaluation) for evaluation in self.teacher_scores],
            "before": self.before and _packed(self.before),
            "weights": self.weights,
            "kept": self.kept,
            "epochs": [
                {**vars(epoch), "validation": epoch.validation and _packed(epoch.validation)}
                for epoch in self.epochs
            ],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> History:
        """What ``state_dict`` was given."""
        return cls(
            inputs={name: _unpacked(saved) for name, saved in state["inputs"].items()},
            teacher_scores=tuple(_unpacked(saved) for saved in state["teacher_scores"]),
            before=state["before"] and _unpacked(state["before"]),
            weights=state["weights"],
            kept=state["kept"],
            epochs=[
                EpochReport(**{**saved, "validation": saved["validation"] and _unpacked(saved["validation"])})
                for saved in state["epochs"]
            ],
        )


def _packed(evaluation: Evaluation) -> dict[str, Any]:
    scores, same = torch.from_numpy(evaluation.scores), torch.from_numpy(evaluation.same)
    return {**vars(evaluation), "scores": scores, "same": same}


def _unpacked(saved: dict[str, Any]) -> Evaluation:
    return Evaluation(**{**saved, "scores": saved["scores"].numpy(), "same": saved["same"].numpy()})
