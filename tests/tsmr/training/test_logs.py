"""Loggers: those that are asked for by name are told all of a run, another package's too, and none can end it."""

from __future__ import annotations

import csv
import json
import logging
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from plugs import fresh, install
from torch import nn

from recipes.tsmr import Callback, Stage, TSMRConfig, TSMRReport, apply_tsmr, improve
from recipes.tsmr.training.logs import LOGGERS, placed
from reparam_kit import InputError

from ..conftest import Net

CONFIG = TSMRConfig(stages=(Stage(1, cosine=1.0), Stage(1, cosine=1.0, mse=1.0)), block=None, batch_size=8)
CODE = """
from recipes.tsmr import Logger
class Lines(Logger, name="lines", ending=".txt"):
    def log(self, values, step):
        with open(self.place, "a") as file:
            print(step, *values, file=file)
"""
ADDED = b"[reparam_kit.loggers]\nlines = plug_of_logs.cli:Lines\nbroken = plug_of_logs.cli:NOTHING\n"


class Fake(ModuleType):
    """The public interface of wandb, or of mlflow, as far as it is used: notes what is called."""

    def __init__(self, name: str, fails: set[str] | None = None) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []
        self.fails = fails or set()

    def noting(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            if name in self.fails:
                raise ConnectionError("the server is gone\nfor good")
            return self.run

        return call

    @property
    def run(self) -> SimpleNamespace:
        parts = {
            part: SimpleNamespace(update=self.noting(f"{part}.update")) for part in ("config", "summary")
        }
        return SimpleNamespace(log=self.noting("log"), finish=self.noting("finish"), **parts)

    def __getattr__(self, name: str) -> Any:
        known = (
            "init",
            "set_tracking_uri",
            "set_experiment",
            "start_run",
            "log_params",
            "log_metrics",
            "end_run",
        )
        if name not in known:
            raise AttributeError(name)
        return self.noting(name)

    def named(self, name: str) -> list[tuple[Any, dict[str, Any]]]:
        return [(args, options) for called, args, options in self.calls if called == name]


@pytest.fixture
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fake:
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    fake = Fake(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


@dataclass
class Whole:
    """A run that all loggers were told of."""

    folder: Path
    student: nn.Module
    teacher: nn.Module
    report: TSMRReport
    wandb: Fake
    mlflow: Fake


@pytest.fixture(scope="module")
def whole(rec: Path, bin_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    torch.manual_seed(1)
    student, teacher = Net(8).eval(), Net(12, width=16).eval()
    folder, fakes = tmp_path_factory.mktemp("whole"), [Fake("wandb"), Fake("mlflow")]
    log_to = [f"csv:{folder / 'run.csv'}", "wandb:mine", "mlflow:http://here:5000"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        for fake in fakes:
            monkeypatch.setitem(sys.modules, fake.__name__, fake)
        checkpoint = folder / "run.pt"
        result = apply_tsmr(student, teacher, rec, bin_file, CONFIG, checkpoint=checkpoint, log_to=log_to)
    return Whole(folder, student, teacher, result.report, *fakes)


def test_a_table_has_the_choices_what_is_deployed_each_epoch_and_the_end(whole: Whole) -> None:
    report = whole.report
    first, deployed, *told, last = rows(whole.folder / "run.csv")
    assert json.loads(first["config"])["batch_size"] == 8
    assert float(deployed["deployed/accuracy"]) == report.before[0]["accuracy"].value
    assert [int(row["epoch"]) for row in told] == [1, 1, 2, 2]
    losses = [row for row in told if "loss/cosine" in row]
    assert "loss/mse" not in losses[0]
    assert [float(row["lr"]) for row in losses] == [point.lr for point in report.curve]
    assert [float(row["loss/mse"]) for row in losses[1:]] == [report.curve[1].losses["mse"]]
    judged = [float(row["validation/accuracy"]) for row in told if "validation/accuracy" in row]
    assert judged == [epoch.validation[0]["accuracy"].value for epoch in report.epochs]
    assert float(last["final/accuracy"]) == report.after[0]["accuracy"].value
    assert (last["step"], last["kept epoch"]) == ("6", str(report.kept))


class Stop(Callback):
    """Ends a run in its second epoch."""

    def step(self, step: Any) -> None:
        if step.epoch == 2:
            raise KeyboardInterrupt


def test_the_table_of_a_run_that_goes_on_is_that_of_a_whole_one(
    whole: Whole, rec: Path, bin_file: Path, tmp_path: Path
) -> None:
    def run(folder: Path, **options: Any) -> list[dict[str, str]]:
        places = {"checkpoint": folder / "run.pt", "log_to": f"csv:{folder / 'run.csv'}"}
        apply_tsmr(whole.student, whole.teacher, rec, bin_file, CONFIG, **places, **options)  # type: ignore[arg-type]
        return steady(folder)

    def steady(folder: Path) -> list[dict[str, str]]:
        differing = {"time", "images per second"}
        return [
            {name: value for name, value in row.items() if name not in differing}
            for row in rows(folder / "run.csv")
        ]

    expected = steady(whole.folder)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Stop()])
    assert steady(tmp_path) == expected[:4]
    assert run(tmp_path) == expected
    assert run(tmp_path) == expected  # nothing is left to do


def test_a_file_of_something_else_is_not_replaced_by_a_table(
    rec: Path, student: nn.Module, tmp_path: Path
) -> None:
    for text in ("name,age\nann,3\n", "time,step,epoch,lr\n1,2,three,4\n", "\0"):
        (tmp_path / "mine.csv").write_text(text)
        with pytest.raises(InputError, match=r"mine.csv is no table of a run .*, and is not replaced"):
            apply_tsmr(student, student, rec, config=CONFIG, log_to=f"csv:{tmp_path / 'mine.csv'}")
        assert (tmp_path / "mine.csv").read_text() == text


def test_weights_and_biases_is_told_all(whole: Whole) -> None:
    service, report = whole.wandb, whole.report
    assert [call[0] for call in service.calls][:3] == ["init", "config.update", "log"]
    assert service.named("init")[0][1]["project"] == "mine"
    assert service.named("config.update")[0][0][0]["lr"] == report.config.plan.lr
    steps = [options["step"] for _, options in service.named("log")]
    assert steps == sorted(steps)  # it drops what comes later for an earlier step
    told = [values for (values,), _ in service.named("log")]
    assert [values["loss/cosine"] for values in told if "loss/cosine" in values] == [
        point.losses["cosine"] for point in report.curve
    ]
    ((final,), _) = service.named("summary.update")[0]
    assert final["final/accuracy"] == report.after[0]["accuracy"].value
    assert service.calls[-1] == ("finish", (), {"exit_code": 0})


def test_mlflow_is_told_all_in_names_that_it_allows(whole: Whole) -> None:
    service = whole.mlflow
    assert service.named("set_tracking_uri") == [(("http://here:5000",), {})]
    assert service.named("set_experiment") == [(("reparam-kit",), {})]
    parameters = [values for (values,), _ in service.named("log_params")]
    assert all(len(some) <= 100 for some in parameters)
    told = {name: value for some in parameters for name, value in some.items()}
    assert (told["batch_size"], told["stages.1.losses.mse"]) == (8, 1.0)
    names = {name for (values,), _ in service.named("log_metrics") for name in values}
    assert {"loss/cosine", "validation/accuracy", "deployed/accuracy", "final/accuracy", "lr"} <= names
    assert all(re.fullmatch(r"[\w\-. /]+", name, re.ASCII) for name in names)
    assert service.calls[-1] == ("end_run", ("FINISHED",), {})


@pytest.mark.parametrize("service", ["wandb", "mlflow"], indirect=True)
def test_what_a_logger_raises_is_a_warning_and_not_the_end(
    rec: Path, student: nn.Module, teacher: nn.Module, service: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    service.fails = {"log", "config.update", "log_params", "log_metrics", "finish", "end_run"}
    with caplog.at_level(logging.WARNING, "recipes.tsmr"):
        result = apply_tsmr(student, teacher, rec, config=CONFIG, log_to=service.__name__)
    assert len(result.report.epochs) == 2
    said = [record.getMessage() for record in caplog.records if "logger" in record.getMessage()]
    assert [("may lack something" in line, "told no more" in line) for line in said] == [
        (True, False),
        (False, True),
    ]
    assert all(line.endswith("ConnectionError: the server is gone") for line in said)
    assert len(service.named("log") + service.named("log_metrics")) <= 3


@pytest.mark.parametrize("service", ["wandb", "mlflow"], indirect=True)
def test_a_run_that_fails_is_not_told_as_one_that_ended_well(
    rec: Path, student: nn.Module, teacher: nn.Module, service: Fake
) -> None:
    with pytest.raises(KeyboardInterrupt):
        apply_tsmr(student, teacher, rec, config=CONFIG, log_to=service.__name__, callbacks=[Stop()])
    ended = ("finish", (), {"exit_code": 1}), ("end_run", ("FAILED",), {})
    assert service.calls[-1] in ended


@pytest.mark.parametrize("service", ["wandb", "mlflow"], indirect=True)
def test_one_that_cannot_be_opened_refuses_the_run_before_anything_takes_long(
    rec: Path, student: nn.Module, teacher: nn.Module, service: Fake, tmp_path: Path
) -> None:
    service.fails = {"init", "start_run"}
    said = f"the logger '{service.__name__}' cannot be opened: ConnectionError: the server is gone$"
    with pytest.raises(InputError, match=said):
        apply_tsmr(student, teacher, rec, config=CONFIG, log_to=[service.__name__], cache=tmp_path / "work")
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.parametrize(
    ("name", "what"), [("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "report")]
)
def test_an_extra_that_is_missing_is_a_line_with_the_command(
    name: str, what: str, student: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(InputError, match=rf'^--log-to {name} needs .*: pip install "reparam-kit\[{what}\]"'):
        apply_tsmr(student, "nowhere.onnx", "nowhere.rec", log_to=f"{name}:place")


def test_a_package_brings_one(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    fresh(LOGGERS, monkeypatch)
    install(tmp_path, ADDED, CODE, "plug_of_logs")
    path = tmp_path / "losses.txt"
    once = replace(CONFIG, stages=CONFIG.stages[:1])  # type: ignore[index]
    apply_tsmr(student, teacher, rec, config=once, log_to=[f"lines:{path}"])
    assert path.read_text() == "3 epoch lr loss/cosine\n3 epoch images per second\n"
    assert placed("lines", Path("a.onnx")) == ["lines:a.onnx.txt"]
    with pytest.raises(InputError, match=r"the logger 'broken' cannot be loaded: .*NOTHING"):
        apply_tsmr(student, teacher, rec, config=CONFIG, log_to="broken")


@pytest.mark.parametrize(
    ("log_to", "says"),
    [
        ("tensorbord:logs", r"there is no logger 'tensorbord' .*: did you mean 'tensorboard'"),
        ("csv", r"log_to='csv' says not where: give 'csv:PATH'"),
        (["csv:"], r"log_to='csv:' names no place behind the colon"),
        (["csv:nowhere.rec"], r"--log-to csv nowhere.rec and data nowhere.rec are the same"),
        (3, r"log_to is of type int: give the name of a logger, such as \"csv:run.csv\", or a list"),
    ],
)
def test_what_names_no_logger_is_said_before_anything_is_read(
    student: nn.Module, log_to: Any, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        apply_tsmr(student, "nowhere.onnx", "nowhere.rec", log_to=log_to)


@pytest.mark.parametrize(
    ("log_to", "says"),
    [
        ("csv:better.onnx", r"output better.onnx and --log-to csv better.onnx are the same"),
        ("tensorboard:better.onnx.html", r"report better.onnx.html and --log-to tensorboard .* are the same"),
        (
            "csv:people/a/log.csv",
            r"--log-to csv people/a/log.csv lies in data people, and would be taken for a part",
        ),
    ],
)
def test_no_log_takes_the_place_of_something_else(
    log_to: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people" / "a").mkdir(parents=True)
    with pytest.raises(InputError, match=says):
        improve("deployed.onnx", "teacher.onnx", "people", "better.onnx", log_to=log_to)
    assert [path.name for path in tmp_path.rglob("*")] == ["people", "a"]


def test_a_folder_that_cannot_be_made_is_a_line(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"the folder of logs .*file.logs cannot be made: Not a directory"):
        apply_tsmr(student, teacher, rec, config=CONFIG, log_to=f"tensorboard:{tmp_path / 'file' / 'logs'}")
