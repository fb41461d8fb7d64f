"""Curves for TensorBoard, written as a run goes."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from recipes.tsmr.results import EpochReport, StepReport, TSMRReport
from recipes.tsmr.training.callbacks import Callback
from reparam_kit import extra


class TensorBoard(Callback):
    """Writes to ``folder``. That of a run that goes on takes the rest of its curves.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        with extra("report", "logs need TensorBoard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(folder))
        self._step = 0

    def step(self, step: StepReport) -> None:
        """Losses, learning rate and figures of losses at each point of the curve."""
        point = step.point
        if point is None:
            return
        self._step = point.step
        self._add({f"loss/{name}": value for name, value in point.losses.items()} | {"lr": point.lr})
        self._add(point.figures)

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        """Pace and validation, at the last step of the epoch."""
        self._add({"images per second": epoch.images_per_second})
        for number, verdict in enumerate(epoch.validation, start=1):
            place = "validation" if number == 1 else f"validation {number}"
            self._add({f"{place}/{f.name}": f.value for f in verdict.figures if f.value is not None})
        self._writer.flush()

    def end(self, report: TSMRReport | None) -> None:
        self._writer.close()

    def _add(self, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, self._step)
