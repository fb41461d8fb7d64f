"""Loggers: what a run comes to, written elsewhere as it goes, each where ``log_to`` says and by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from recipes.faces import Verdict
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.progress import LOGGER
from recipes.tsmr.results import EpochReport, StepReport, TSMRReport
from recipes.tsmr.training.callbacks import Callback, Callbacks
from reparam_kit import InputError, Output, Registry, ReparamError, first_line

LOGGERS: Registry[type[Logger]] = Registry("logger", "recipes.tsmr.training.loggers", "reparam_kit.loggers")
"""Every logger by its name."""

LogTo = str | Sequence[str]
_FAILURES = 3  # without an epoch that a logger took, until it is told no more


class Logger(Callback):
    """A callback that writes what it is told to ``place``, and is found by its name.

    A package names its own among the entry points ``reparam_kit.loggers``; ``log_to="lines:FILE"`` and
    ``tsmr --log-to lines:FILE`` then use it. What it raises while it is opened refuses the run, in one line; later it
    is a warning, and the run goes on.

    Args:
        place: where it writes: what stands behind the colon; empty where nothing does, and there is no ``ending``.

    Attributes:
        name: by which it is found.
        ending: of the file or folder beside the output that is written to unless ``place`` says otherwise; empty
            where that is none, but a service.
        holds: patterns of the files that are written, where it is a folder.

    >>> class Lines(Logger, name="lines", ending=".txt"):
    ...     def log(self, values, step):
    ...         with open(self.place, "a") as file:
    ...             print(step, *values.items(), file=file)

    Raises:
        InputError: another logger has the name.
    """

    name: ClassVar[str] = ""
    ending: ClassVar[str] = ""
    holds: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, name: str = "", ending: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.ending = ending or cls.ending
        if name:
            cls.name = name
            LOGGERS.add(name, cls)

    def __init__(self, place: str = "") -> None:
        self.place = place
        self._step = 0

    def open(self) -> None:
        """Begin to write, once what the run is given was found right, and before anything takes long."""

    def configure(self, config: Mapping[str, Any], done: int) -> None:
        """Take note of all choices, once, as plain values; ``done``: epochs that an earlier run has told of."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take note of ``values`` after ``step`` steps: losses and rate, "epoch", or what judges say."""

    def conclude(self, values: Mapping[str, float]) -> None:
        """Take note of what came of the run: figures of what was deployed and of what is returned."""

    def close(self, well: bool) -> None:
        """End; not ``well`` where an error or an interruption ended the run."""

    def start(self, config: TSMRConfig, done: int) -> None:
        self.configure(config.to_json(), done)

    def deployed(self, verdicts: tuple[Verdict, ...]) -> None:
        if verdicts:
            self.log(_figures("deployed", verdicts), 0)

    def step(self, step: StepReport) -> None:
        if step.point is not None:
            self._step = step.point.step
            losses = {f"loss/{name}": value for name, value in step.point.losses.items()}
            self.log({"epoch": step.epoch, "lr": step.point.lr, **losses, **step.point.figures}, self._step)

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        told = {"epoch": epoch.epoch, "images per second": epoch.images_per_second}
        self.log({**told, **_figures("validation", epoch.validation)}, self._step)

    def end(self, report: TSMRReport | None) -> None:
        if report is not None:
            self._step = report.curve[-1].step
            figures = {**_figures("deployed", report.before), **_figures("final", report.after)}
            self.conclude({"kept epoch": report.kept, "share": report.share, **figures})
        self.close(report is not None)


def _figures(place: str, verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return what judges say by name, such as "validation/accuracy" and "validation 2/accuracy"."""
    numbered = [place, *(f"{place} {number}" for number in range(2, len(verdicts) + 1))]
    return {
        f"{name}/{figure.name}": figure.value
        for name, verdict in zip(numbered, verdicts, strict=False)
        for figure in verdict.figures
        if figure.value is not None
    }


class Spared(Callback):
    """Tells ``logger``, and spares the run what it raises: the first failure is a warning, and after some without
    an epoch that it took it is told no more.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._failures = 0
        self._warned = False

    def start(self, config: TSMRConfig, done: int) -> None:
        self._tell(lambda: self._logger.start(config, done))

    def deployed(self, verdicts: tuple[Verdict, ...]) -> None:
        self._tell(lambda: self._logger.deployed(verdicts))

    def step(self, step: StepReport) -> None:
        self._tell(lambda: self._logger.step(step))

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        if self._tell(lambda: self._logger.epoch(epoch, model)):
            self._failures = 0

    def end(self, report: TSMRReport | None) -> None:
        self._tell(lambda: self._logger.end(report))

    def _tell(self, tell: Callable[[], None]) -> bool:
        if self._failures >= _FAILURES:
            return False
        try:
            tell()
        except Exception as error:  # another's code, its network, a full disk
            self._failures += 1
            if not self._warned or self._failures == _FAILURES:
                goes_on = "is told no more" if self._failures == _FAILURES else "may lack something"
                LOGGER.warning(
                    f"the logger {self._logger.name!r} fails, and {goes_on}; the run goes on: "
                    f"{type(error).__name__}: {first_line(error)}"
                )
            self._warned = True
            return False
        return True


def texts(log_to: LogTo) -> list[str]:
    """Return each of ``log_to`` once: ``NAME`` or ``NAME:PLACE``."""
    return list(dict.fromkeys([log_to] if isinstance(log_to, str) else log_to))


def placed(log_to: LogTo, output: Path) -> list[str]:
    """Return each with its place: beside ``output`` where none is given and it writes to files.

    Raises:
        InputError: there is no such logger.
    """
    found = []
    for text in texts(log_to):
        logger, place = _read(text)
        beside = f"{text}:{output.with_name(output.name + logger.ending)}"
        found.append(beside if logger.ending and not place else text)
    return found


def written(log_to: LogTo) -> dict[str, Output]:
    """Return the files and folders that are written, by what a message calls them.

    Raises:
        InputError: there is no such logger, or one has no place that needs one.
    """
    found = {}
    for text in texts(log_to):
        logger, place = _read(text)
        if logger.ending and not place:
            raise InputError(f"log_to={text!r} says not where: give {f'{text}:PATH'!r}")
        if logger.ending:
            found[f"--log-to {logger.name}"] = Output(Path(place), logger.holds)
    return found


def made(log_to: LogTo) -> list[Logger]:
    """Return the loggers, not opened yet. Raises InputError where one cannot be imported."""
    loggers = []
    for text in texts(log_to):
        logger, place = _read(text)
        loggers.append(_refusing(logger.name, lambda made=logger, place=place: made(place)))  # type: ignore[misc]
    return loggers


def opened(loggers: Sequence[Logger]) -> list[Callback]:
    """Open each, and return what tells them. Raises InputError where one cannot be opened; the others are closed."""
    told: list[Callback] = []
    try:
        for logger in loggers:
            _refusing(logger.name, logger.open)
            told.append(Spared(logger))
    except BaseException:
        Callbacks(told).end(None)
        raise
    return told


def _refusing(name: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except ReparamError:
        raise
    except Exception as error:
        said = first_line(error)
        raise InputError(f"the logger {name!r} cannot be opened: {type(error).__name__}: {said}") from error


def _read(text: str) -> tuple[type[Logger], str]:
    name, colon, place = text.partition(":")
    if colon and not place:
        raise InputError(f"log_to={text!r} names no place behind the colon")
    return LOGGERS[name], place
