"""What judges a student: the file that it will be, where it came from one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reparam_kit as rk
from recipes.faces import Judge, Verdict
from recipes.tsmr import Stage, TSMRConfig, apply_tsmr, ingredients
from recipes.tsmr.ingredients import as_file, of_deployed, of_student
from reparam_kit import InputError

CONFIG = TSMRConfig(block=None, batch_size=8, lr=1e-3, stages=(Stage(1, gallery=1.0),), shares=())


class Sees(Judge):
    """Remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def judge(self, model: Any, *args: Any) -> Verdict:
        self.given.append(model)
        if isinstance(model, Path):
            assert model.is_file()
        return Verdict.of_means({"right": torch.tensor([True, False]).numpy()}, decides="right")


def test_a_net_from_a_file_is_judged_as_that_file(rec: Path, deployed: tuple[Path, Path]) -> None:
    student, teacher = deployed
    judge = Sees()
    model = rk.load(student)
    apply_tsmr(model, teacher, rec, judge, CONFIG)
    ours = [given for given in judge.given if Path(given) != teacher]
    assert ours
    assert all(isinstance(given, Path) and not given.exists() for given in ours)
    with as_file(model) as runs:
        assert isinstance(runs, Path)
        assert runs.read_bytes() == student.read_bytes()
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(of_deployed(model, CONFIG)(images), of_student(model, CONFIG)(images))


def test_a_net_that_came_from_no_file_is_judged_itself(
    rec: Path, student: nn.Module, teacher: nn.Module
) -> None:
    with as_file(student) as runs:
        assert runs is student
    judge = Sees()
    apply_tsmr(student, teacher, rec, judge, CONFIG)
    assert all(isinstance(given, nn.Module) for given in judge.given)


def test_a_file_that_onnxruntime_cannot_run_is_left_to_torch(
    deployed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise InputError("it has an operator of a kind of its own")

    monkeypatch.setattr(ingredients, "open_session", refuse)
    model = rk.load(deployed[0])
    with as_file(model) as runs:
        assert runs is model
