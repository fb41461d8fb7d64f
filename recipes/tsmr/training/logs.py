"""Curves for TensorBoard, written as a run goes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from recipes.tsmr.results import EpochReport, Point
from reparam_kit import extra


class Log:
    """Writes to ``folder``, or nowhere. The folder of a run that goes on takes the rest of its curves.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._writer: Any = None
        if folder is None:
            return
        with extra("report", "logs need TensorBoard"):
            from torch.utils.tensorboard import SummaryWriter
        self._writer = SummaryWriter(str(folder))

    def epoch(self, epoch: EpochReport, points: Iterable[Point]) -> None:
        """Losses, learning rate and discriminator along the steps of ``points``; validation at the last of them."""
        if self._writer is None:
            return
        step = 0
        for point in points:
            step = point.step
            scalars = {f"loss/{name}": value for name, value in point.losses.items()} | {"lr": point.lr}
            if point.discriminator is not None:
                scalars["discriminator/accuracy"] = point.discriminator
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)
        self._writer.add_scalar("images per second", epoch.images_per_second, step)
        if epoch.validation is not None:
            self._writer.add_scalar("validation/accuracy", epoch.validation.accuracy, step)
            for far, tar in epoch.validation.tar_at_far.items():
                if tar is not None:
                    self._writer.add_scalar(f"validation/TAR at FAR {far:g}", tar, step)
        self._writer.flush()

    def __enter__(self) -> Log:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
