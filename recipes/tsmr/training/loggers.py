"""The loggers that this project brings. Each imports what it writes with when it is made, and not before."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping
from datetime import datetime
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from recipes.faces import Verdict
from recipes.tsmr.training.checkpoint import leaves
from recipes.tsmr.training.logs import Logger
from reparam_kit import InputError, atomic_file, extra, first_line, require_file, require_writable

PROJECT = "reparam-kit"
"""What a service files runs under, unless told otherwise."""

_FIRST = ("time", "step", "epoch", "lr")  # columns of a table; the others come as they are met
_CONFIG, _KEPT = "config", "kept epoch"
_PARAMETERS = 100  # that MLflow takes at once


class Csv(Logger, name="csv", ending=".csv"):
    """Write one table: a row for the choices (JSON), for what is deployed, each point, each epoch, and the end. The
    table of a run that goes on takes the rest of its rows.
    """

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self._path = Path(place)
        self._told: list[dict[str, str]] = []  # by an earlier run
        self._rows: list[dict[str, str]] = []
        self._columns = list(_FIRST)

    def open(self) -> None:
        """Read what an earlier run has written. InputError: the file holds something else, or cannot be written."""
        require_writable(self._path)
        if not self._path.exists():
            return
        text = require_file(self._path, "a table of a run").read_text("utf-8", errors="replace")
        try:
            reader = csv.DictReader(StringIO(text, newline=""))
            columns = reader.fieldnames or _FIRST
            if tuple(columns[: len(_FIRST)]) != _FIRST:
                raise ValueError(f"its first columns are not {', '.join(_FIRST)}")
            rows = [{name: value for name, value in row.items() if name and value} for row in reader]
            self._told = [row for row in rows if _KEPT not in row and _epoch(row) >= 0]
        except (ValueError, csv.Error) as error:
            raise InputError(
                f"{self._path} is no table of a run (--log-to csv), and is not replaced: {first_line(error)}"
            ) from error

    def configure(self, config: Mapping[str, Any], done: int) -> None:
        # What an epoch that was cut off has told is told again.
        self._rows = [row for row in self._told if _epoch(row) <= done] if done else []
        self._columns = list(dict.fromkeys([*_FIRST, *(name for row in self._rows for name in row)]))
        if not self._rows:
            self._add({_CONFIG: json.dumps(config, default=list)}, 0)
        with atomic_file(self._path) as whole:
            whole.write(self._text(self._rows, header=True).encode())

    def deployed(self, verdicts: tuple[Verdict, ...]) -> None:
        if len(self._rows) == 1:  # else a run that goes on has told it before
            super().deployed(verdicts)

    def log(self, values: Mapping[str, float], step: int) -> None:
        columns = len(self._columns)
        row = self._add(values, step)
        if len(self._columns) > columns:
            with atomic_file(self._path) as whole:
                whole.write(self._text(self._rows, header=True).encode())
        else:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._text([row]))

    def conclude(self, values: Mapping[str, float]) -> None:
        self.log(values, self._step)

    def _add(self, values: Mapping[str, Any], step: int) -> dict[str, str]:
        """Return the row of what is told now, the last one from then on."""
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        row = {name: str(value) for name, value in {"time": now, "step": step, **values}.items()}
        self._rows.append(row)
        self._columns += [name for name in row if name not in self._columns]
        return row

    def _text(self, rows: list[dict[str, str]], header: bool = False) -> str:
        text = StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _epoch(row: Mapping[str, str]) -> int:
    return int(row.get("epoch", 0))


class TensorBoard(Logger, name="tensorboard", ending=".logs"):
    """Write scalars for TensorBoard. The folder of a run that goes on takes the rest of its curves.

    Raises:
        InputError: TensorBoard is not installed.
    """

    holds = ("events.out.tfevents.*",)

    def __init__(self, place: str) -> None:
        super().__init__(place)
        with extra("report", "--log-to tensorboard needs TensorBoard"):
            from torch.utils.tensorboard import SummaryWriter
        self._made = SummaryWriter

    def open(self) -> None:
        folder = Path(self.place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder of logs {folder} cannot be made: {error.strerror}") from error
        self._writer = self._made(str(folder))

    def configure(self, config: Mapping[str, Any], done: int) -> None:
        self._writer.add_text("config", f"```json\n{json.dumps(config, indent=2, default=list)}\n```", 0)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def conclude(self, values: Mapping[str, float]) -> None:
        self.log(values, self._step)

    def close(self, well: bool) -> None:
        self._writer.close()


class WandB(Logger, name="wandb"):
    """Tell Weights & Biases, in the project ``place``; its environment variables decide about the rest, such as
    WANDB_MODE=offline, and WANDB_RUN_ID with WANDB_RESUME for the run that goes on.

    Raises:
        InputError: wandb is not installed.
    """

    def __init__(self, place: str = "") -> None:
        super().__init__(place)
        with extra("wandb", "--log-to wandb needs wandb"):
            import wandb
        self._wandb = wandb

    def open(self) -> None:
        named = self.place or (None if os.environ.get("WANDB_PROJECT") else PROJECT)
        self._run = self._wandb.init(project=named, job_type="tsmr")

    def configure(self, config: Mapping[str, Any], done: int) -> None:
        self._run.config.update(dict(config), allow_val_change=True)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def conclude(self, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def close(self, well: bool) -> None:
        self._run.finish(exit_code=0 if well else 1)


class MLflow(Logger, name="mlflow"):
    """Tell MLflow, at the tracking URI ``place``; its environment variables decide about the rest, such as
    MLFLOW_EXPERIMENT_NAME, and MLFLOW_RUN_ID for the run that goes on.

    Raises:
        InputError: mlflow is not installed.
    """

    def __init__(self, place: str = "") -> None:
        super().__init__(place)
        with extra("mlflow", "--log-to mlflow needs MLflow"):
            import mlflow
        self._mlflow = mlflow

    def open(self) -> None:
        if self.place:
            self._mlflow.set_tracking_uri(self.place)
        if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"} & os.environ.keys():
            self._mlflow.set_experiment(PROJECT)
        self._mlflow.start_run(nested=True)  # within a run of the caller's, if there is one

    def configure(self, config: Mapping[str, Any], done: int) -> None:
        chosen = ((_allowed(name), value) for name, value in leaves(dict(config)))
        while some := dict(islice(chosen, _PARAMETERS)):
            self._mlflow.log_params(some)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics({_allowed(name): value for name, value in values.items()}, step=step)

    def conclude(self, values: Mapping[str, float]) -> None:
        self.log(values, self._step)

    def close(self, well: bool) -> None:
        self._mlflow.end_run("FINISHED" if well else "FAILED")


def _allowed(name: str) -> str:
    """Return the name in the characters that MLflow allows."""
    return re.sub(r"[^\w\-. /]", "_", name)
