"""What is called as a run goes: the bar, loggers, the checkpoint, and whatever the caller brings."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from recipes.faces import Verdict
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.progress import Pass, Progress
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
    """Shows each epoch on ``progress``."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._epochs = 0
        self._pass: Pass | None = None
        self._last: Point | None = None

    def start(self, config: TSMRConfig, done: int) -> None:
        self._epochs = config.total_epochs

    def step(self, step: StepReport) -> None:
        if self._pass is None:
            name = f"epoch {step.epoch}/{self._epochs}"
            self._pass = self._progress.begin(name, step.steps * step.images, step.seconds)
        self._last = step.point or self._last
        self._pass.advance(step.images, _note(step.point.losses, step.point) if step.point else "")
        if step.step == step.steps:
            self._pass.stop()

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        if self._pass is not None and self._last is not None:
            images = f"{self._pass.done} images, {epoch.images_per_second:.0f} images/s"
            self._progress.say(f"{self._pass.name}: {images}, {_note(epoch.losses, self._last)}")
        self._pass = None
        for verdict in epoch.validation:
            found = f"{verdict.decides} {verdict.deciding.shown()} on {verdict.subject}"
            self._progress.say(f"epoch {epoch.epoch}/{self._epochs}: {found}")

    def end(self, report: TSMRReport | None) -> None:
        if self._pass is not None:
            self._pass.stop()


def _note(losses: dict[str, float], point: Point) -> str:
    shown = [f"{name} {value:.4f}" for name, value in (losses | point.figures).items()]
    return ", ".join([*shown, f"lr {point.lr:.1e}"])
