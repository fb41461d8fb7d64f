"""The recipe on a GPU: every loss, a run that goes on, a student and a teacher from files, and the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from states import same, weights
from torch import nn

import reparam_kit as rk
from recipes.tsmr import Callback, EpochReport, Stage, TSMRConfig, apply_tsmr
from recipes.tsmr.stages import BROUGHT
from reparam_kit.cli import main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

CONFIG = TSMRConfig(stages=(Stage(epochs=2, cosine=1.0),), batch_size=8, lr=1e-3)
EMBEDDINGS = sorted({*BROUGHT} - {"kl", "dist", "labels"})


def changed(**choices: Any) -> TSMRConfig:
    return TSMRConfig(**{**vars(CONFIG), **choices})


class Interrupt(Callback):
    """Ends a run after its first epoch, as by Ctrl-C."""

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        if epoch.epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("loss", EMBEDDINGS)
def test_every_loss_trains(rec: Path, bin_file: Path, student: nn.Module, twin: nn.Module, loss: str) -> None:
    config = changed(stages=(Stage(epochs=2, losses={"cosine": 1.0, loss: 0.5}),), flip=True)
    result = apply_tsmr(student.cuda(), twin, rec, bin_file, config)
    assert {p.device.type for p in result.model.parameters()} == {"cuda"}
    assert not same(weights(result.model), weights(student)) or result.report.share == 0


@pytest.mark.parametrize(
    "choices",
    [{"ema": 0.9}, {"bf16": True}, {"restore_bn": True}, {"norm": "batch"}, {"block": None}, {"workers": 2}],
)
def test_a_resumed_run_ends_as_the_whole_one(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, choices: dict[str, Any]
) -> None:
    config, student = changed(**choices), student.cuda()
    whole = apply_tsmr(student, teacher, rec, bin_file, config)
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        apply_tsmr(student, teacher, rec, bin_file, config, checkpoint=checkpoint, callbacks=[Interrupt()])
    resumed = apply_tsmr(student, teacher, rec, bin_file, config, checkpoint=checkpoint)
    for name, weight in weights(whole.model).items():
        torch.testing.assert_close(weights(resumed.model)[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_files_train_and_are_written(
    rec: Path, bin_file: Path, deployed: tuple[Path, Path], tmp_path: Path
) -> None:
    student, teacher = deployed
    result = apply_tsmr(rk.load(student).cuda(), teacher, rec, bin_file, CONFIG)
    rk.save(result.model, tmp_path / "new.onnx")
    [found] = onnxruntime.InferenceSession(tmp_path / "new.onnx").run(
        None, {"x": torch.zeros(2, 3, 16, 16).numpy()}
    )
    expected = result.model(torch.zeros(2, 3, 16, 16).cuda())
    torch.testing.assert_close(torch.from_numpy(found), expected.cpu(), rtol=1e-2, atol=1e-2)


def test_the_command_finds_the_gpu(
    rec: Path, bin_file: Path, deployed: tuple[Path, Path], tmp_path: Path
) -> None:
    student, teacher = map(str, deployed)
    line = [
        "tsmr", student, "--teacher", teacher, "--data", str(rec), "--val", str(bin_file),
        "-o", str(tmp_path / "new.onnx"),
        "--student-input", "insightface", "--teacher-input", "insightface", "--epochs", "1", "--batch-size", "8",
    ]  # fmt: skip
    done = CliRunner().invoke(main, line)
    assert done.exit_code == 0, done.output
    assert "device: cuda" in done.output
