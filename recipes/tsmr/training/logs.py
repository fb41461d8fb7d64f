"""Loggers: the curves of a run, written into a folder as it goes. TensorBoard is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from recipes.tsmr.results import EpochReport, StepReport, TSMRReport
from recipes.tsmr.training.callbacks import Callback
from reparam_kit import Registry, extra

LOGGERS: Registry[type[Logger]] = Registry("logger", "recipes.tsmr.training.logs", "reparam_kit.loggers")
"""Every logger by its name."""


class Logger(Callback):
    """A callback that writes into ``folder`` what it is told, and is found by its name.

    A package names its own among the entry points ``reparam_kit.loggers``; ``logs=folder, logger="lines"`` and
    ``tsmr --logs FOLDER --logger lines`` then use it.

    >>> class Lines(Logger, name="lines"):
    ...     def epoch(self, epoch, model):
    ...         with (self.folder / "losses.txt").open("a") as file:
    ...             print(epoch.epoch, epoch.losses, file=file)

    Raises:
        InputError: another logger has the name.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls, name: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if name:
            cls.name = name
            LOGGERS.add(name, cls)

    def __init__(self, folder: Path) -> None:
        self.folder = folder


class TensorBoard(Logger, name="tensorboard"):
    """Write scalars for TensorBoard. The folder of a run that goes on takes the rest of its curves.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
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
