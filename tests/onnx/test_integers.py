"""How many integers of a quantised file training has changed, and clipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx_text import SMALL, SMALL_WEIGHTS, Weights, load
from quantized import CONV, conv_of, integers, settings_of
from torch import nn

from reparam_kit import IntegerCount, count_integers, expand, save
from reparam_kit.cli import main
from reparam_kit.onnx import import_onnx

QAT = """net (float[N,3,8,8] x) => (float y) {
    q = QuantizeLinear <axis = 0> (w, s, z) d = DequantizeLinear <axis = 0> (q, s, z)
    t = Transpose <perm = [0,1,3,2]> (d) y = Conv (x, t)
}"""
QAT_WEIGHTS: Weights = {"w": (4, 3, 3, 3), "s": np.full(4, 0.1, np.float32), "z": np.zeros(4, np.int8)}


def test_an_untrained_net_has_changed_none(tmp_path: Path) -> None:
    model = load(tmp_path / "model.onnx", CONV, settings_of(True, np.int8))
    count = IntegerCount(total=4 * 27 + 4, changed=0, clipped=0)
    assert count_integers(model) == count
    assert save(model, tmp_path / "new.onnx") == count


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_what_is_counted_is_what_the_file_shows(tmp_path: Path, dtype: type) -> None:
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    model = load(path, CONV, settings_of(True, dtype))
    weight, scale = conv_of(model).weight, conv_of(model).get_buffer("weight_scale")
    with torch.no_grad():
        weight += torch.randn(weight.shape) * 20 * scale
        weight[0, 0, 0] = torch.tensor([1e6, -1e6, 0])
    count = save(model, new)
    assert count is not None
    assert count.changed == sum((integers(path)[name] != integers(new)[name]).sum() for name in ("w", "b"))
    at_an_end = np.isin(integers(new)["w"], [np.iinfo(dtype).min, np.iinfo(dtype).max]).sum()
    assert 2 <= count.clipped <= at_an_end


def test_a_weight_that_is_quantised_in_every_pass_counts_by_its_levels(tmp_path: Path) -> None:
    model = load(tmp_path / "model.onnx", QAT, QAT_WEIGHTS)
    [weight] = model.parameters()
    weight.data[:] = 0.1 * torch.round(weight.data / 0.1)
    count = count_integers(model)
    assert count == IntegerCount(108, 0, 0)
    weight.data += 0.03
    assert count_integers(model) == IntegerCount(108, 0, 0)
    weight.data[0, 0, 0, 0] += 0.1
    weight.data[1] = 99
    assert count_integers(model) == IntegerCount(108, 1 + 27, 27)


def test_other_models_have_no_integers(tmp_path: Path) -> None:
    assert count_integers(nn.Linear(2, 2)) is None
    assert save(load(tmp_path / "model.onnx", SMALL, SMALL_WEIGHTS), tmp_path / "new.onnx") is None
    assert save(nn.Linear(2, 2), tmp_path / "new.safetensors") is None


def test_fold_says_it(tmp_path: Path) -> None:
    path, expanded, new = (str(tmp_path / name) for name in ("model.onnx", "e.pt", "new.onnx"))
    load(Path(path), CONV, settings_of(False, np.int8))
    student = expand(import_onnx(path))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.02
    save(student, expanded)
    result = CliRunner().invoke(main, ["fold", expanded, "-o", new])
    assert result.exit_code == 0
    assert "of 112 integers changed, " in result.stderr
