"""An imported model is compared with its file, and the first node at which they part is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_text import SMALL, SMALL_WEIGHTS, Weights, load
from torch import nn

from reparam_kit import InputError, VerificationError, check_import, expand, fold

ACROSS = """net (float[1,3,8,8] x) => (float y) { c = Conv (x, w) m = ReduceMean <keepdims = 0> (c) d = Sub (c, m)
    y = Transpose <perm = [1,0,2,3]> (d) }"""
QUANTISED = """net (float[N,3,8,8] x) => (float y) { q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
    y = Conv (d, w) }"""
WEIGHTS: Weights = {"w": (4, 3, 3, 3), "s": np.array(0.05, np.float32), "z": np.array(128, np.uint8)}


def model_of(path: Path, text: str) -> nn.Module:
    return load(path, text, SMALL_WEIGHTS if text is SMALL else WEIGHTS)


@pytest.mark.parametrize("text", [SMALL, ACROSS, QUANTISED], ids=["small", "across", "quantised"])
def test_an_import_is_as_its_file_trained_or_not(text: str, tmp_path: Path) -> None:
    model, x = model_of(tmp_path / "model.onnx", text), torch.randn(3, 3, 8, 8)
    assert check_import(model, x) is None
    student = expand(model)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    assert check_import(fold(student), x) is None
    with pytest.raises(InputError, match="still has expanded"):
        check_import(student, x)


@pytest.mark.parametrize(("text", "name"), [(SMALL, "'p' (PRelu)"), (ACROSS, "'d' (Sub)")])
def test_the_first_node_that_differs_is_named(text: str, name: str, tmp_path: Path) -> None:
    model = model_of(tmp_path / "model.onnx", text)
    wrong = next(node for node in model.graph.nodes if node.meta.get("value") == name[1])
    with model.graph.inserting_after(wrong):
        double = model.graph.call_function(torch.mul, (wrong, 2))
    wrong.replace_all_uses_with(double, lambda user: user is not double)
    double.meta["value"] = wrong.meta.pop("value")
    model.recompile()
    with pytest.raises(VerificationError, match="first at node") as caught:
        check_import(model, torch.randn(2, 3, 8, 8))
    assert name in str(caught.value)


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not loaded from an ONNX file"):
        check_import(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8))
    model = model_of(tmp_path / "model.onnx", ACROSS)
    assert "not compared" in str(check_import(model, torch.randn(2, 3, 4, 4)))
