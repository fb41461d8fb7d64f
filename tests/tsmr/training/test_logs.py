"""Loggers: the one that is asked for by its name writes into the folder, another package's too."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugs import fresh, install
from torch import nn

from recipes.tsmr import Logger, Stage, TSMRConfig, apply_tsmr
from recipes.tsmr.training.logs import LOGGERS
from reparam_kit import InputError

CONFIG = TSMRConfig(stages=(Stage(2, cosine=1.0),), block=None, batch_size=8)
CODE = """
from recipes.tsmr import Logger
class Lines(Logger, name="lines"):
    def epoch(self, epoch, model):
        with (self.folder / "losses.txt").open("a") as file:
            print(epoch.epoch, *epoch.losses, file=file)
"""
ADDED = b"[reparam_kit.loggers]\nlines = plug_of_logs.cli:Lines\nbroken = plug_of_logs.cli:NOTHING\n"


def test_a_package_brings_one(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    fresh(LOGGERS, monkeypatch)
    install(tmp_path, ADDED, CODE, "plug_of_logs")
    folder = tmp_path / "deep" / "logs"
    apply_tsmr(student, teacher, rec, config=CONFIG, logs=folder, logger="lines")
    assert (folder / "losses.txt").read_text() == "1 cosine\n2 cosine\n"
    with pytest.raises(InputError, match=r"the logger 'broken' cannot be loaded: .*NOTHING"):
        apply_tsmr(student, teacher, rec, config=CONFIG, logs=folder, logger="broken")


def test_a_misspelt_one_is_said_before_anything_is_read(student: nn.Module) -> None:
    with pytest.raises(InputError, match=r"there is no logger 'tensorbord' .*: did you mean 'tensorboard'"):
        apply_tsmr(student, "nowhere.onnx", "nowhere.rec", logs="logs", logger="tensorbord")


def test_a_folder_that_cannot_be_made_is_a_line(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(LOGGERS, monkeypatch)

    class Nothing(Logger, name="nothing"):
        """Writes nothing."""

    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"the folder of logs .*file.logs cannot be made: Not a directory"):
        apply_tsmr(student, teacher, rec, config=CONFIG, logs=tmp_path / "file" / "logs", logger="nothing")
