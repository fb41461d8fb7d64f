"""Teachers of every kind, opened on the device of the run."""

from __future__ import annotations

import logging
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import reparam_kit as rk
from recipes.faces import Embedder, FaceRecords, input_preset
from recipes.tsmr import Stage, TSMRConfig, apply_tsmr, improve
from recipes.tsmr.targets.teachers import placed, teacher_preset
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError
from reparam_kit.formats import load as load_model

from ..conftest import onnx_teacher

CUDA = torch.device("cuda")
RAW = partial(Embedder, preset=input_preset("raw"))
CONFIG = TSMRConfig(stages=(Stage(1, cosine=1.0),), batch_size=8)


@pytest.mark.parametrize("size", [16, 20])
def test_images_are_scaled_for_a_teacher_that_fixes_another_size(
    rec: Path, student: nn.Module, tmp_path: Path, size: int
) -> None:
    path = onnx_teacher(tmp_path / "t.onnx", size)
    preset = teacher_preset(path, "raw", torch.Size([3, 16, 16]))
    assert teacher_preset(rk.load(path), "raw", torch.Size([3, 16, 16])) == preset
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    assert preset(images).shape == (2, 3, size, size)
    assert ("size" in repr(preset)) == (size != 16)  # a table of its own in the cache
    flat = torch.full((1, 3, 16, 16), 7, dtype=torch.uint8)
    torch.testing.assert_close(preset(flat), torch.full((1, 3, size, size), 7.0))
    config = TSMRConfig(stages=(Stage(1, cosine=1.0),), batch_size=8)
    assert apply_tsmr(student, path, rec, config=config).report.epochs[0].losses["cosine"] > 0


@pytest.mark.parametrize("content", [b"not a model", None])
def test_a_teacher_that_is_no_model_stops_the_run(
    rec: Path, student: nn.Module, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "t.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"t\.onnx"):
        apply_tsmr(student, path, rec, config=TSMRConfig(batch_size=8))


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where modules stay as they are moved to CUDA; the providers that sessions were asked for."""
    asked: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(model: Any, options: Any, providers: list[Any]) -> Any:
        asked.append(providers)
        opened = real(model, options, providers=["CPUExecutionProvider"])
        names = [name if isinstance(name, str) else name[0] for name in providers]
        return SimpleNamespace(
            get_providers=lambda: names,
            **{name: getattr(opened, name) for name in ("run", "get_inputs", "get_outputs")},
        )

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)
    return asked


def provided(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*names, "CPUExecutionProvider"])


def test_a_file_runs_in_onnxruntime_on_cuda_where_that_is_installed(
    rec: Path, tmp_path: Path, without_cuda: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    provided(monkeypatch, "CUDAExecutionProvider")
    path, views = onnx_teacher(tmp_path / "t.onnx"), Views(FaceRecords(rec))
    embed = placed(path, RAW, views, torch.device("cuda", 1))
    assert without_cuda == [[("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]]
    assert embed(views.first(2)).shape == (2, 6)
    placed(path, RAW, views, torch.device("cpu"))
    assert without_cuda[1:] == [["CPUExecutionProvider"]]


@pytest.mark.parametrize("built", [True, False])
def test_a_file_runs_as_a_module_where_onnxruntime_has_no_cuda(
    rec: Path, tmp_path: Path, without_cuda: list[Any], monkeypatch: pytest.MonkeyPatch, built: bool
) -> None:
    """Because it is not built for it, or does not find its libraries."""
    provided(monkeypatch, *["CUDAExecutionProvider"] * built)
    if built:
        real = onnxruntime.InferenceSession
        monkeypatch.setattr(
            onnxruntime, "InferenceSession", lambda m, o, providers: real(m, o, ["CPUExecutionProvider"])
        )
    views = Views(FaceRecords(rec))
    path = onnx_teacher(tmp_path / "t.onnx")
    embed = placed(path, RAW, views, CUDA)
    assert isinstance(embed.model, nn.Module)
    on_file = placed(path, RAW, views, torch.device("cpu"))
    torch.testing.assert_close(embed(views.first(3)), on_file(views.first(3)), rtol=1e-4, atol=1e-2)
    assert on_file.model == path


@pytest.mark.parametrize(
    ("load", "says"),
    [
        (lambda path: nn.Sequential(nn.Flatten(), nn.Linear(768, 6)), "gives something else"),
        (lambda path: nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), "gives something else"),
        (lambda path: load_model("no.such:thing"), r"cannot be imported as a module \(no.such:thing"),
    ],
)
def test_a_file_runs_on_the_cpu_where_its_module_is_another_and_a_line_says_so(
    rec: Path,
    tmp_path: Path,
    without_cuda: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    load: Any,
    says: str,
) -> None:
    provided(monkeypatch, "CUDAExecutionProvider")
    monkeypatch.setattr(rk, "load", load)
    views, path = Views(FaceRecords(rec)), onnx_teacher(tmp_path / "t.onnx")
    embed = placed(path, RAW, views, torch.device("xpu"))
    assert embed.model == path
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert re.search(rf"t\.onnx runs on the CPU, because .*{says}", record.getMessage())


FACTORY = """
import torch
from torch import nn
def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 9))
def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A module of two factories, in the current folder, and their weights."""
    monkeypatch.chdir(tmp_path)
    Path("teacher_nets.py").write_text(FACTORY)
    monkeypatch.delitem(sys.modules, "teacher_nets", raising=False)
    for name, size in (("wide", 9), ("narrow", 4)):
        weight = torch.randn(size, 768)
        save_file({"1.weight": weight, "1.bias": torch.zeros(size)}, f"{name}.safetensors")
    return {name: tmp_path / f"{name}.safetensors" for name in ("wide", "narrow")}


def test_a_factory_with_weights_is_a_teacher(
    rec: Path, student: nn.Module, factories: dict[str, Path]
) -> None:
    names = ["teacher_nets:wide", "teacher_nets:narrow"]
    weights = [factories["wide"], factories["narrow"]]
    both = apply_tsmr(student, names, rec, config=CONFIG, teacher_weights=weights).report
    made = [rk.load(name, weights=file) for name, file in zip(names, weights, strict=True)]
    assert both.teachers == apply_tsmr(student, made, rec, config=CONFIG).report.teachers
    one = apply_tsmr(student, names[0], rec, config=CONFIG, teacher_weights=weights[0]).report
    assert one.teachers == both.teachers[:1]


@pytest.mark.parametrize(
    ("teacher", "weights", "says"),
    [
        (
            "teacher_nets:wide",
            ["wide", "narrow"],
            "teachers 1 are package.module:factory, and weights .* for 2",
        ),
        (
            ["teacher_nets:wide", "teacher_nets:narrow"],
            ["wide"],
            "teachers 2 are package.module:factory, and weights .* for 1",
        ),
        ("t.onnx", ["wide"], "teachers 0 are package.module:factory, and weights .* for 1"),
        ("teacher_nets:wide", ["narrow"], "does not fit teacher_nets:wide"),
        ("teacher_nets:tall", [], "teacher_nets:tall: cannot import the factory"),
        ("no_such_nets:tall", [], "no_such_nets:tall: cannot import the factory"),
    ],
)
def test_weights_that_are_of_no_factory_are_refused(
    rec: Path,
    student: nn.Module,
    factories: dict[str, Path],
    teacher: Any,
    weights: list[str],
    says: str,
) -> None:
    onnx_teacher(Path("t.onnx"))
    files = [factories[name] for name in weights]
    with pytest.raises(InputError, match=says):
        apply_tsmr(student, teacher, rec, config=CONFIG, teacher_weights=files)


def test_the_command_takes_them(rec: Path, deployed: tuple[Path, Path], factories: dict[str, Path]) -> None:
    from click.testing import CliRunner

    from recipes.tsmr.cli import tsmr

    command = [
        *(str(deployed[0]), "--teacher", "teacher_nets:wide", "--teacher-weights", str(factories["wide"])),
        *("--teacher-input", "raw", "--student-input", "raw", "--data", str(rec), "--views", "live"),
        *("--epochs", "1", "--refine-epochs", "0", "--batch-size", "8", "-o", "better.onnx"),
    ]
    result = CliRunner().invoke(tsmr, command)
    assert result.exit_code == 0, result.output
    assert "views='live': the teacher sees what the student sees" in result.stderr
    again = improve(
        deployed[0], "teacher_nets:wide", rec, "again.onnx", teacher_weights=factories["wide"], config=CONFIG
    )
    assert again.output.read_bytes() != deployed[0].read_bytes()
