"""Tensors that a file stores once and uses several times, as of a head that a detector has on several scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_text import Weights, assert_as_runtime, load, run
from quantized import random, runtime

from reparam_kit.onnx import write_back

_IN, _OUT = "xq = QuantizeLinear (x, s, z)", "y = DequantizeLinear (q, s, z)"
# Two layers of one weight w [4,4,3,3], or its matrix m.
TWICE = {
    "dequantised twice": """d = DequantizeLinear <axis = 0> (w, ws, wz) e = DequantizeLinear <axis = 0> (w, ws, wz)
        c = Conv (x, d) y = Conv (c, e)""",
    "by scales of their own": """d = DequantizeLinear <axis = 0> (w, ws, wz)
        e = DequantizeLinear <axis = 0> (w, wt, wz) c = Conv (x, d) y = Conv (c, e)""",
    "quantised in every pass, twice": """p = QuantizeLinear <axis = 0> (f, ws, wz)
        d = DequantizeLinear <axis = 0> (p, ws, wz) r = QuantizeLinear <axis = 0> (f, ws, wz)
        e = DequantizeLinear <axis = 0> (r, ws, wz) c = Conv (x, d) y = Conv (c, e)""",
    "convolutions of integers": f"""{_IN} c = QLinearConv (xq, s, z, w, ws, wz, s, z)
        q = QLinearConv (c, s, z, w, ws, wz, s, z) {_OUT}""",
    "products of integers": f"""{_IN} c = QLinearMatMul (xq, s, z, m, s, wz0, s, z)
        q = QLinearMatMul (c, s, z, m, s, wz0, s, z) {_OUT}""",
}


@pytest.mark.parametrize("case", TWICE)
def test_integers_that_are_one_weight_are_trained(case: str, tmp_path: Path) -> None:
    path, new, nodes = tmp_path / "model.onnx", tmp_path / "new.onnx", TWICE[case]
    scale = random.uniform(0.01, 0.02, 4).astype(np.float32)
    weights: Weights = {
        "w": random.integers(-120, 120, (4, 4, 3, 3)).astype(np.int8),
        "m": random.integers(-120, 120, (9, 9)).astype(np.int8),
        "f": (random.uniform(-1, 1, (4, 4, 3, 3))).astype(np.float32),
        "ws": scale,
        "wt": scale.copy(),
        "wz": np.zeros(4, np.int8),
        "wz0": np.zeros((), np.int8),
        "s": np.array(0.05, np.float32),
        "z": np.array(120, np.uint8),
    }
    used = {
        name: array
        for name, array in weights.items()
        if f" {name}," in nodes or f"({name}," in nodes or f" {name})" in nodes
    }
    model, x = load(path, f"net (float[N,4,9,9] x) => (float y) {{ {nodes} }}", used), torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(run(model, x)[0], runtime(path, x), rtol=1e-4, atol=1e-4)
    [weight] = model.parameters()
    assert weight.requires_grad
    model.train()(x).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.isfinite().all()
    weight.data += 0.1 * weight.abs().max() * torch.randn(weight.shape)
    model.eval()
    write_back(model, new)
    torch.testing.assert_close(run(model, x)[0], runtime(new, x), rtol=1e-4, atol=1e-4)
    assert not runtime(new, x).equal(runtime(path, x))


# Two BatchNorms, of scales, shifts, means and variances.
STATISTICS = {
    "the shift": ("k, t, t, v", "l, u, m, w"),
    "the mean of another": ("k, t, m, v", "l, u, m, w"),
    "the scale": ("v, t, m, v", "l, u, n, w"),
}


@pytest.mark.parametrize("other", STATISTICS)
def test_statistics_that_are_something_else_too_do_not_move(other: str, tmp_path: Path) -> None:
    """As optimisers of files merge tensors that are equal."""
    one, two = STATISTICS[other]
    text = f"""net (float[N,3,4,4] x) => (float[N,3,4,4] y) {{
        a = BatchNormalization (x, {one}) b = BatchNormalization (a, {two}) y = Conv (b, c)
    }}"""
    weights: Weights = {
        **dict.fromkeys({*one, *two} - {*", vw"}, (3,)),
        "v": np.full(3, 2, np.float32),
        "w": np.full(3, 3, np.float32),
        "c": (3, 3, 1, 1),
    }
    model, x = load(tmp_path / "model.onnx", text, weights), 3 + torch.randn(8, 3, 4, 4)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.01)
    model.train()(x).square().sum().backward()
    optimizer.step()
    write_back(model.eval(), tmp_path / "new.onnx")
    assert_as_runtime(model, tmp_path / "new.onnx", x)
