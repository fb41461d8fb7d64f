"""What a file and ``--set`` say of a run, before options take the place of what they name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import reparam_kit as rk
from recipes.tsmr.catalogue import keys, unknown
from recipes.tsmr.choices import ChoiceError, TaskName, inside, kinds, made_value
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.run import OWN, Run
from recipes.tsmr.schema import amended, as_written, split
from recipes.tsmr.settings import read_settings, yaml_value

Made = TypeVar("Made")


_CODE = "can do anything: give it on the command line, or --trust-config for a file that you trust"


@dataclass(frozen=True)
class _Change:
    """One ``--set PLACE=VALUE``."""

    text: str
    place: tuple[str, ...]
    value: Any

    @classmethod
    def of(cls, text: str) -> _Change:
        name, sign, value = text.partition("=")
        place = split(name)
        if not (sign and place):
            raise rk.InputError(f"--set {text}: write it as KEY=VALUE, such as adversary.lr=1e-3")
        if place[0] not in (*OWN, *kinds(TSMRConfig)):
            raise rk.InputError(f"--set {text}: {unknown(name)}")
        return cls(text, place, yaml_value(value) if value else "")


class Told:
    """What ``file`` says, with ``changes``, each ``PLACE=VALUE``, in it.

    Args:
        trusted: the file may name code that is run: factories, files to import, a .pt to unpickle.

    Raises:
        InputError: the file cannot be read, or it or a change names what there is not, or what it may not.
    """

    def __init__(
        self, file: str | Path | None = None, changes: Sequence[str] = (), trusted: bool = False
    ) -> None:
        self._settings = None if file is None else read_settings(file)
        self._values = {} if self._settings is None else _choices(self._settings.values)
        self._changes = [_Change.of(text) for text in changes]
        for name in self._values:
            if name not in (*OWN, *kinds(TSMRConfig), "version"):
                raise rk.InputError(f"{self._source((name,))}: {unknown(name)}")
        if self._values and not trusted:
            self._refuse_code()

    def says(self, name: str) -> bool:
        """Return whether it says something of a choice."""
        return self._values.get(name) is not None or any(one.place[0] == name for one in self._changes)

    def own(self) -> dict[str, Any]:
        """Return what it says of the run besides its choices, by name."""
        written = {
            name: as_written(kinds(Run)[name], self._values.get(name)) for name in OWN if self.says(name)
        }
        values = self._changed(Run, written, [one for one in self._changes if one.place[0] in OWN])
        return self._made(lambda: {name: _own(name, value) for name, value in values.items()})

    def config(self, task: TaskName | None = None) -> TSMRConfig:
        """Return the choices; a change of a usual stage is one of those of ``task``, if that is chosen elsewhere."""
        values = as_written(TSMRConfig, {n: value for n, value in self._values.items() if n not in OWN})
        stages = [one for one in self._changes if one.place[0] == "stages" and len(one.place) > 1]
        others = [one for one in self._changes if one.place[0] not in OWN and one not in stages]
        values = self._changed(TSMRConfig, values, others)
        if stages and values.get("stages") is None:
            known = {**values, "task": task or values.get("task", TSMRConfig.task)}
            plan = self._made(lambda: TSMRConfig.from_json(known)).plan
            values = {**values, "stages": [asdict(stage) for stage in plan.stages], "epochs": None}
        values = self._changed(TSMRConfig, values, stages)
        return self._made(lambda: TSMRConfig.from_json(values))

    def _changed(self, kind: Any, values: dict[str, Any], changes: Iterable[_Change]) -> dict[str, Any]:
        for change in changes:
            try:
                values = amended(kind, values, change.place, change.value)
            except ChoiceError as error:
                raise rk.InputError(f"--set {change.text}: {error}") from error
        return values

    def _made(self, make: Callable[[], Made]) -> Made:
        """Return what ``make`` does; where that is refused, say by whom it was said."""
        try:
            return make()
        except ChoiceError as error:
            said = self._source(split(error.place))
            raise rk.InputError(f"{said}: {error}" if said else str(error)) from error

    def _source(self, place: tuple[str, ...]) -> str:
        for change in reversed(self._changes):
            if place[: len(change.place)] == change.place:
                return f"--set {change.text}"
        return "" if self._settings is None else self._settings.where(place)

    def _refuse_code(self) -> None:
        """Refuse a file that names what is run: it may come from anyone."""
        for name in ("imports", "unsafe_load"):
            if self._values.get(name):
                raise rk.InputError(f"{self._source((name,))}: {name} is code, which {_CODE}")
        for name in ("student", "teacher"):
            given = self._values.get(name)
            for text in given if isinstance(given, list) else [given]:
                if rk.is_factory(text):
                    raise rk.InputError(f"{self._source((name,))}: {name}={text!r} is code, which {_CODE}")


def _choices(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the choices of a file; a report, as ``--json`` prints it, has them within."""
    return values["config"] if isinstance(values.get("config"), Mapping) else values


def _own(name: str, value: Any) -> Any:
    with inside(name):
        return made_value(kinds(Run)[name], value)


def read_run(path: str | Path, *, trusted: bool = False) -> Run:
    """Read a run from a file, YAML or JSON, such as ``--save-config`` writes and every run leaves beside its output.

    Args:
        path: the file.
        trusted: the file may name code that is run: factories, files to import, a .pt to unpickle.

    Raises:
        InputError: the file cannot be read, is damaged, or says something that cannot be used, in which line; or it
            does not say all that a run needs.

    >>> Run("deployed.onnx", "teacher.onnx", "train.rec", "better.onnx").save("run.yaml")
    >>> read_run("run.yaml").data
    'train.rec'
    """
    told = Told(path, trusted=trusted)
    own = told.own()
    if missing := [key.place for key in keys() if key.default is MISSING and key.place not in own]:
        raise rk.InputError(f"{path} does not say: {', '.join(missing)}")
    for file in own.get("imports", ()):
        rk.import_file(file)
    return Run(**own, config=told.config())
