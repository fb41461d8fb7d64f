"""What apply_tsmr does not take: one line that names the argument, before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from wrong_files import assert_one_line

from recipes.faces import PairSet
from recipes.tsmr import Stage, TSMRConfig, apply_tsmr
from reparam_kit import InputError

PIXELS = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
PAIRS = PairSet([b"a", b"b"], np.ones(1, np.bool_))
WRONG: list[tuple[str, Any, str]] = [
    ("model", "student.onnx", "model is of type str: give a module; reparam_kit.load"),
    ("model", None, "model is of type NoneType"),
    ("teacher", None, "teacher is of type NoneType: give the path of an .onnx file"),
    ("teacher", 3, "teacher is of type int"),
    ("teacher", [nn.Identity(), None], r"teacher\[1\] is of type NoneType"),
    ("teacher", "", "teacher='' is no path"),
    ("data", None, "data is of type NoneType: give what read_faces opens"),
    ("data", 3, "data is of type int"),
    ("data", (image for image in PIXELS), "data is of type generator"),
    ("data", "", "data='' is no path"),
    ("data", PAIRS, "data is of type PairSet"),
    ("data", ["a.rec", "b.rec"], "training image 0 is str: an item of the data is"),
    ("data", PIXELS[:, :2], r"training image 0 is torch.uint8 \[2, 16, 16\], not \[C, H, W\]"),
    ("data", [(PIXELS.numpy(), 0, 0)] * 8, r"training image 0 is torch.uint8 \[8, 3, 16, 16\], not"),
    ("data", [(PIXELS[0].int(), 0, 0)] * 8, "training image 0 is torch.int32"),
    ("data", [3] * 8, "training image 0 is int: an item of the data is"),
    ("val", 3, "val is of type int: give the path of a verification set, pairs"),
    ("val", [], "val is an empty list: give what judges the model, or None"),
    ("config", None, "config is of type NoneType: give a TSMRConfig"),
    ("config", {"lr": 1e-3}, "config is of type dict"),
    ("config", Stage(cosine=1.0), "config is of type Stage"),
    *((place, 3, f"{place} is of type int: give a path, or None") for place in ("cache", "checkpoint")),
    *((place, b"x", f"{place} is of type bytes") for place in ("cache", "checkpoint")),
    *((place, "", f"{place}='' is no path") for place in ("cache", "checkpoint")),
    *((place, "a\0b", f"{place}='a.*b' is no path") for place in ("cache", "checkpoint")),
    *(("checkpoint", folder, "is a folder: name a file in it") for folder in (".", "/")),
    ("checkpoint", "c" * 256, "File name too long"),
]


@pytest.mark.parametrize(("name", "value", "says"), WRONG)
def test_an_argument_of_another_kind_is_named(
    name: str, value: Any, says: str, rec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 5))
    config = TSMRConfig(
        stages=(Stage(epochs=1, cosine=1.0),), batch_size=4, student_input="raw", teacher_input="raw"
    )
    usual: dict[str, Any] = {"model": net, "teacher": net, "data": rec, "config": config}
    with pytest.raises(InputError) as error:
        apply_tsmr(**{**usual, name: value})
    assert_one_line(str(error.value), says)
    assert set(tmp_path.rglob("*")) == before
