"""What a file of choices and the command line say together."""

from __future__ import annotations

import json
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from recipes.tsmr import Margin, Stage, TSMRConfig
from recipes.tsmr.cli import tsmr
from recipes.tsmr.options import chosen
from recipes.tsmr.run import OWN
from recipes.tsmr.stages import BROUGHT, LOSSES
from reparam_kit import InputError, import_file

PRESETS = {"student_input": "raw", "teacher_input": "raw"}
STAGES = [
    {"epochs": 3, "cosine": 2.0, "hard": 1.0},
    {"epochs": 4, "rate": 0.25, "mse": 1.0, "adversarial": 0.5},
]
THIRD = {"epochs": 9, "margin": 1.0}


def options(file: Path | None, *args: str) -> TSMRConfig:
    """What ``tsmr`` makes of ``args``, without running."""
    given = [] if file is None else ["--config", str(file)]
    needed = ["s.onnx", "--teacher", "t.onnx", "--data", "d", "-o", "o.onnx"]
    params = tsmr.make_context("tsmr", [*needed, *given, *args]).params
    for path in params["imports"]:
        import_file(path)
    others = {*signature(tsmr.callback).parameters, *OWN} - {"told"}
    return chosen(**{name: value for name, value in params.items() if name not in others})


def written(tmp_path: Path, values: Any) -> Path:
    path = tmp_path / "choices.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("args", "changes"),
    [
        ([], {}),
        (["--lr", "0.5"], {}),
        (["--epochs", "7"], {0: {"epochs": 7}}),
        (["--refine-epochs", "7"], {1: {"epochs": 7}}),
        (["--adversarial", "0.75"], {1: {"adversarial": 0.75}}),
        (["--loss", "cosine=3"], {0: {"cosine": 3}, 1: {"cosine": 3}}),
        (["--loss", "relational"], {0: {"relational": 1}, 1: {"relational": 1}}),
    ],
)
def test_the_stages_of_a_file_stay_but_for_what_is_given(
    tmp_path: Path, args: list[str], changes: dict[int, dict[str, Any]]
) -> None:
    config = options(written(tmp_path, {**PRESETS, "stages": STAGES, "lr": 0.25}), *args)
    want = [Stage(**{**stage, **changes.get(number, {})}) for number, stage in enumerate(STAGES)]  # type: ignore[arg-type]
    assert config.stages == tuple(want)
    assert config.lr == (0.5 if "--lr" in args else 0.25)


def test_the_second_stage_goes_and_comes(tmp_path: Path) -> None:
    both = written(tmp_path, {**PRESETS, "stages": STAGES})
    assert options(both, "--refine-epochs", "0").stages == (Stage(**STAGES[0]),)  # type: ignore[arg-type]
    one = written(tmp_path, {**PRESETS, "stages": STAGES[:1]})
    second = Stage(epochs=6, rate=0.5, cosine=2.0, hard=1.0, adversarial=0.005)
    assert options(one, "--refine-epochs", "6").stages[1] == second


def test_three_stages_are_changed_in_the_file(tmp_path: Path) -> None:
    three = written(tmp_path, {**PRESETS, "stages": [*STAGES, THIRD]})
    assert options(three, "--epochs", "2").stages[2] == Stage(epochs=9, margin=1.0)
    with pytest.raises(InputError, match="the file has 3"):
        options(three, "--refine-epochs", "2")


def test_without_a_file_a_loss_takes_the_place_of_the_usual_one() -> None:
    presets = ("--student-input", "raw", "--teacher-input", "raw")
    assert [stage.losses for stage in options(None, *presets, "--loss", "mse=2").stages] == [{"mse": 2}]
    first, second = options(None, *presets, "--loss", "mse=2", "--refine-epochs", "3").stages
    assert first.losses == {"mse": 2}
    assert (second.epochs, second.losses) == (3, {"mse": 2, "adversarial": 0.005})


def test_the_command_line_wins(tmp_path: Path) -> None:
    file = written(tmp_path, {**PRESETS, "block": "dbb", "margin": {"size": 0.5, "scale": 16.0}})
    config = options(file, "--block", "plain", "--margin", "arcface", "--student-input", "insightface")
    assert (config.block, config.student_input, config.teacher_input) == (None, "insightface", "raw")
    assert config.margin == Margin("arcface", 0.5, 16.0)


MINE = """
import torch
from recipes.tsmr import Loss, Stage
class Mine(Loss, name="mine"):
    def forward(self, batch): return (1 - torch.cosine_similarity(batch.student, batch.student.roll(1, 0))).mean()
Stage(epochs=1, losses={"cosine": 1.0, "mine": 0.1})
"""


def test_augment_leaves_what_is_shown_in_its_place() -> None:
    """So that a net that gives maps can train with it, too."""
    inputs = ("--student-input", "raw", "--teacher-input", "raw")
    augment = options(None, *inputs, "--augment").augment
    assert (augment.mirror, augment.affine) == (0, 0)
    assert min(augment.crop, augment.colour, augment.low_resolution, augment.occlusion) > 0


def test_a_loss_of_ones_own_is_imported_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOSSES, "_known", {loss: LOSSES[loss] for loss in LOSSES})
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(MINE)
    config = options(
        written(tmp_path, PRESETS),
        "--import",
        str(tmp_path / "mine.py"),
        "--loss",
        "cosine",
        "--loss",
        "mine=0.1",
    )
    assert [stage.losses for stage in config.stages] == [{"cosine": 1, "mine": 0.1}]
    assert options(written(tmp_path, config.to_json())) == config


@pytest.mark.parametrize("stage", [{"losses": {"cosine": 1, "mine": 0.1}}, {"cosine": 1, "mine": 0.1}])
def test_a_file_that_names_a_loss_that_is_not_there_is_a_line(tmp_path: Path, stage: dict[str, Any]) -> None:
    file = written(tmp_path, {**PRESETS, "stages": [STAGES[0], stage]})
    with pytest.raises(InputError) as caught:
        options(file)
    assert str(caught.value).startswith(f"{file}: stages[1]")
    assert "'mine'" in str(caught.value)
    assert "known once its module is imported" in str(caught.value)


@pytest.mark.parametrize("values", [{}, {"student_input": "raw"}, {"teacher_input": "raw"}])
def test_a_file_without_presets_does_not_choose_them(tmp_path: Path, values: dict[str, str]) -> None:
    with pytest.raises(InputError, match="required and have no default"):
        options(written(tmp_path, values))


def test_the_line_names_the_file_and_the_place(tmp_path: Path) -> None:
    file = written(tmp_path, {**PRESETS, "stages": [STAGES[0], {"mse": "much"}]})
    with pytest.raises(InputError) as caught:
        options(file)
    assert str(caught.value) == f"{file}: stages[1].mse='much' must be a number, zero or positive"


def test_help_of_tsmr_names_the_losses_and_imports_no_torch() -> None:
    script = (
        "import sys; from recipes.tsmr.cli import tsmr; tsmr(['--help'], standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    named = done.stdout.partition("Names: ")[2].partition(", and those of your own")[0]
    assert named.replace("\n", " ").replace(" ", "").split(",") == list(BROUGHT)
    assert [name for name in LOSSES if str(LOSSES[name].__module__).startswith("recipes.")] == list(BROUGHT)
