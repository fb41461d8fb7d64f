"""What is called as a run goes: the bar, loggers, the checkpoint, and whatever the caller brings."""

from __future__ import annotations

import time
from collections.abc import Iterable

from torch import nn

from recipes.faces import Verdict
from recipes.progress import Pass, Progress, memory, shown_time
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.results import EpochReport, Point, StepReport, TSMRReport
from reparam_kit import InputError


class Callback:
    """Base of callbacks: called when training starts, after each step and each epoch, and at the end.

    It changes neither the model nor, if the same run is to give the same weights, the state of torch's generator. What
    it raises ends the run. Of several processes the first has callbacks.

    >>> class Losses(Callback):
    ...     def epoch(self, epoch, model):
    ...         print(epoch.epoch, epoch.losses)
    """

    def start(self, config: TSMRConfig, done: int) -> None:
        """Begin: training starts after epoch ``done``: 0, or more in a run that goes on."""

    def deployed(self, verdicts: tuple[Verdict, ...]) -> None:
        """Take note of what each judge says of the model as it is deployed, after the start; none without judges."""

    def step(self, step: StepReport) -> None:
        """Take note of a step."""

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        """Take note that an epoch is over; ``model`` is the folded student, which ``epoch.validation`` is of."""

    def end(self, report: TSMRReport | None) -> None:
        """End: the run is over; None where an error or an interruption ended it."""


class Callbacks(Callback):
    """Several as one, told in their order. Raises InputError where one is none."""

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        if isinstance(callbacks, Callback):
            raise InputError("callbacks is a list of them, and this is one: give [callback]")
        self._callbacks = tuple(callbacks)
        for callback in self._callbacks:
            if not isinstance(callback, Callback):
                raise InputError(f"{callback!r} in callbacks is no instance of recipes.tsmr.Callback")

    def start(self, config: TSMRConfig, done: int) -> None:
        for callback in self._callbacks:
            callback.start(config, done)

    def deployed(self, verdicts: tuple[Verdict, ...]) -> None:
        for callback in self._callbacks:
            callback.deployed(verdicts)

    def step(self, step: StepReport) -> None:
        for callback in self._callbacks:
            callback.step(step)

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        for callback in self._callbacks:
            callback.epoch(epoch, model)

    def end(self, report: TSMRReport | None) -> None:
        for callback in self._callbacks:
            callback.end(report)


class ProgressBar(Callback):
    """Shows each epoch on ``progress``: what is deployed, how the epoch compares with it, losses and pace."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._config = TSMRConfig()
        self._deployed: tuple[Verdict, ...] = ()
        self._pass: Pass | None = None
        self._last: Point | None = None
        self._began, self._ended = 0.0, 0  # this process's training, and its epochs since then

    def start(self, config: TSMRConfig, done: int) -> None:
        self._config, self._began = config, time.monotonic()

    def deployed(self, verdicts: tuple[Verdict, ...]) -> None:
        self._deployed = verdicts

    def step(self, step: StepReport) -> None:
        if self._pass is None:
            further = self._config.total_epochs - step.epoch
            name, images = self._name(step.epoch), step.steps * step.images
            self._pass = self._progress.begin(name, images, step.seconds, further, self._each)
        self._last = step.point or self._last
        self._pass.advance(step.images, _note(step.point.losses, step.point) if step.point else "")
        if step.step == step.steps:
            self._pass.stop()

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        self._ended += 1
        parts = [
            f"{old.decides} deployed {old.deciding.shown()}, now {new.deciding.shown()}"
            for old, new in zip(self._deployed, epoch.validation, strict=True)
        ]
        if self._last is not None:
            parts.append(_note(epoch.losses, self._last))
        done = f"{self._pass.done:,} images, " if self._pass is not None else ""
        parts += [f"{done}{epoch.images_per_second:.0f} images/s", memory()]
        further = self._config.total_epochs - epoch.epoch
        parts += [f"ETA of the run {shown_time(further * self._each)}"] if further else []
        self._progress.say(f"{self._name(epoch.epoch)}: {', '.join(filter(None, parts))}")
        self._pass = None

    def end(self, report: TSMRReport | None) -> None:
        if self._pass is not None:
            self._pass.stop()

    @property
    def _each(self) -> float:
        """Seconds of an epoch, with its judging; 0 before the first."""
        return (time.monotonic() - self._began) / self._ended if self._ended else 0.0

    def _name(self, epoch: int) -> str:
        stages = len(self._config.plan.stages)
        stage = f", stage {self._config.place(epoch)[0] + 1}/{stages}" if stages > 1 else ""
        return f"epoch {epoch}/{self._config.total_epochs}{stage}"


def _note(losses: dict[str, float], point: Point) -> str:
    shown = [f"{name} {value:.4f}" for name, value in (losses | point.figures).items()]
    return ", ".join([*shown, f"lr {point.lr:.1e}"])
