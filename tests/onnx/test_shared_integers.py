"""Integers that several nodes turn into one weight, as of a head that a detector has on several scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_text import Weights, load, run
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
def test_such_a_weight_is_trained(case: str, tmp_path: Path) -> None:
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
