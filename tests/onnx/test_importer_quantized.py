"""Quantised nets: fake quantisation with a gradient, and weights that the file stores as integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx_models import without_payloads
from onnx_text import Weights, load, run
from quantized import CONV, conv_of, integers, runtime, settings_of

from reparam_kit.errors import InputError
from reparam_kit.onnx import import_onnx, write_back
from reparam_kit.onnx.provenance import Grid


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_quantised_convolution(tmp_path: Path, per_channel: bool, dtype: type) -> None:
    path = tmp_path / "model.onnx"
    model = load(path, CONV, settings_of(per_channel, dtype))
    x = 2 * torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(run(model, x)[0], runtime(path, x), rtol=0, atol=1e-5)

    conv = conv_of(model)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"c.weight", "c.bias"}
    x.requires_grad_()
    model.train()(x).square().sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().max() > 0
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_untouched_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_back(load(path, CONV, settings_of(True, np.int8)), tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("typed", [False, True], ids=["raw_data", "int32_data"])
def test_a_trained_weight_goes_to_the_nearest_level(tmp_path: Path, typed: bool, dtype: type) -> None:
    path, values = tmp_path / "model.onnx", settings_of(True, dtype)
    load(path, CONV, values)
    if typed:
        proto = onnx.load(path)
        for tensor in proto.graph.initializer:
            if tensor.name == "w":
                tensor.ClearField("raw_data")
                tensor.int32_data.extend(values["w"].reshape(-1).tolist())  # type: ignore[union-attr]
        path.write_bytes(proto.SerializeToString())
    model = import_onnx(path)
    scale = torch.from_numpy(values["ws"]).reshape(-1, 1, 1, 1)
    conv_of(model).weight.data[:2] += 3.4 * scale[:2]
    write_back(model, tmp_path / "new.onnx")
    info, expected = np.iinfo(dtype), np.array(values["w"], np.int64)
    expected[:2] = (expected[:2] + 3).clip(info.min, info.max)
    np.testing.assert_array_equal(integers(tmp_path / "new.onnx")["w"], expected)
    for name in values.keys() - {"w"}:
        np.testing.assert_array_equal(integers(tmp_path / "new.onnx")[name], values[name])
    assert len(onnx.load(path).graph.node) == len(onnx.load(tmp_path / "new.onnx").graph.node)
    conv_of(model).weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="initializer 'w': 1 of 108 new values are NaN"):
        write_back(model, tmp_path / "broken.onnx")
    assert not (tmp_path / "broken.onnx").exists()


@settings(deadline=None, max_examples=50)
@given(
    levels=arrays.arrays(np.int8, (3, 5)),
    scale=arrays.arrays(np.float32, (3, 1), elements=st.floats(2**-20, 2**20, width=32)),
    zero=arrays.arrays(np.int8, (3, 1)),
)
def test_a_level_stands_for_itself(levels: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> None:
    grid = Grid(scale, zero, (-128, 127))
    np.testing.assert_array_equal(grid.stored(grid.values(levels)), levels)


def test_a_float_weight_is_quantised_in_every_pass(tmp_path: Path) -> None:
    """As exporters write a net after quantisation-aware training: the file stores what the optimiser held."""
    text = """net (float[N,3,8,8] x) => (float[N,4,6,6] y) {
        q = QuantizeLinear <axis = 0> (w, s, z) d = DequantizeLinear <axis = 0> (q, s, z) y = Conv (x, d)
    }"""
    path = tmp_path / "model.onnx"
    weights: Weights = {
        "w": (4, 3, 3, 3),
        "s": np.full(4, 0.02, np.float32),
        "z": np.zeros(4, np.int8),
    }
    model = load(path, text, weights)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(run(model, x)[0], runtime(path, x), rtol=0, atol=1e-5)
    [(name, parameter)] = model.named_parameters()
    model(x).square().sum().backward()
    stored = integers(path)["w"]
    inside = torch.from_numpy(np.abs(stored / 0.02) < 127.5)
    assert parameter.grad is not None
    assert (parameter.grad[inside] != 0).all()
    assert (parameter.grad[~inside] == 0).all()
    parameter.data += 1
    write_back(model, tmp_path / "new.onnx")
    assert model.meta["onnx"].tensors[name].key.name == "w"
    np.testing.assert_array_equal(integers(tmp_path / "new.onnx")["w"], parameter.detach())
    assert without_payloads(tmp_path / "new.onnx") == without_payloads(path)


def test_integers_between_the_two_are_integers(tmp_path: Path) -> None:
    text = """net (float[N,4] x) => (uint8[N,4] q, float[N,2,2] y) {
        q = QuantizeLinear (x, s, z) r = Reshape (q, shape) y = DequantizeLinear (r, s, z)
    }"""
    weights: Weights = {
        "s": np.array(0.1, np.float32),
        "z": np.array(7, np.uint8),
        "shape": np.array([-1, 2, 2]),
    }
    model = load(tmp_path / "model.onnx", text, weights)
    q, y = run(model, torch.tensor([[-9.0, 0.04, 0.06, 99.0]]))
    assert q.dtype is torch.uint8
    assert q.tolist() == [[0, 7, 8, 255]]
    torch.testing.assert_close(y, (q.float() - 7).reshape(1, 2, 2) * 0.1)


def test_a_number_behind_a_dequantize(tmp_path: Path) -> None:
    text = "net (float[N,4] x) => (float[N,4] y) { k = DequantizeLinear (w, s) y = Mul (x, k) }"
    weights: Weights = {"w": np.array(127, np.int8), "s": np.array(0.01, np.float32)}
    model = load(tmp_path / "model.onnx", text, weights)
    x = torch.randn(2, 4)
    torch.testing.assert_close(run(model, x)[0], runtime(tmp_path / "model.onnx", x))
    write_back(model, tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
