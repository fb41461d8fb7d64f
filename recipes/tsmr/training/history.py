"""How a run has gone so far, which of its weights are the best, and how a checkpoint holds that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from recipes.faces import FoundInput, Verdict
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.results import EpochReport


@dataclass
class History:
    """The epochs of a run, and the best weights of it.

    Attributes:
        inputs, teacher_scores, before: as in ``TSMRReport``.
        weights: of the best epoch so far; before the first, of the model as it was passed in.
        kept: that epoch; 0 before the first.
        epochs: all of them.
    """

    inputs: FoundInput | None
    teacher_scores: tuple[Verdict, ...]
    before: tuple[Verdict, ...]
    weights: dict[str, Tensor]
    kept: int = 0
    epochs: list[EpochReport] = field(default_factory=list)

    @property
    def best(self) -> tuple[Verdict, ...]:
        """What the judges say of ``weights``."""
        return self.epochs[self.kept - 1].validation if self.kept else self.before

    def add(self, epoch: EpochReport, weights: dict[str, Tensor]) -> None:
        """Take in an epoch and its folded weights; they are kept if none were better, or nothing is judged."""
        best = self.best if self.kept else ()
        self.epochs.append(epoch)
        if not best or epoch.validation[0].rank() > best[0].rank():
            self.kept, self.weights = epoch.epoch, weights

    def require_fit(self, model: nn.Module, config: TSMRConfig) -> None:
        """Raise ValueError where this is no history of ``model`` under ``config``."""
        if not 0 <= self.kept <= len(self.epochs) <= config.total_epochs:
            raise ValueError(
                f"it keeps epoch {self.kept} of {len(self.epochs)}, of a run of {config.total_epochs}"
            )
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
            "inputs": self.inputs and self.inputs.state_dict(),
            "teacher_scores": _packed(self.teacher_scores),
            "before": _packed(self.before),
            "weights": self.weights,
            "kept": self.kept,
            "epochs": [{**vars(epoch), "validation": _packed(epoch.validation)} for epoch in self.epochs],
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> History:
        """Return what ``state_dict`` was given."""
        return cls(
            inputs=state["inputs"] and FoundInput.from_state(state["inputs"]),
            teacher_scores=_unpacked(state["teacher_scores"]),
            before=_unpacked(state["before"]),
            weights=state["weights"],
            kept=state["kept"],
            epochs=[
                EpochReport(**{**saved, "validation": _unpacked(saved["validation"])})
                for saved in state["epochs"]
            ],
        )


def _packed(verdicts: tuple[Verdict, ...]) -> list[dict[str, Any]]:
    return [verdict.state_dict() for verdict in verdicts]


def _unpacked(saved: list[dict[str, Any]]) -> tuple[Verdict, ...]:
    return tuple(map(Verdict.from_state, saved))
