"""Quantised nets of which a scale was rounded to 0, or nearly so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_text import Weights, load, run
from quantized import random, runtime

from reparam_kit.onnx import write_back

# As half files have scales that were too small. ``o`` is the one at hand.
SCALE_OF_ZERO = {
    "of an activation": "q = QuantizeLinear (x, o, z) d = DequantizeLinear (q, o, z) y = MatMul (d, m)",
    "of what is picked": """q = QuantizeLinear (x, o, z) r = Identity (q) d = DequantizeLinear (r, o, z)
        y = MatMul (d, m)""",
    "of a weight": "d = DequantizeLinear (w, o, z) a = MatMul (x, d) y = MatMul (a, m)",
    "of a weight in every pass": """q = QuantizeLinear (v, o, z) d = DequantizeLinear (q, o, z) a = MatMul (x, d)
        y = MatMul (a, m)""",
    "of integers": """t = MatMul (x, m) q = QuantizeLinear (t, s, z) p = QLinearMatMul (q, s, z, w, o, z, s, z)
        y = DequantizeLinear (p, s, z)""",
    "of the result": """t = MatMul (x, m) q = QuantizeLinear (t, s, z) p = QLinearMatMul (q, s, z, w, s, z, o, z)
        y = DequantizeLinear (p, o, z)""",
    "of a sum": """t = MatMul (x, m) q = QuantizeLinear (t, s, z)
        p = com.microsoft.QLinearAdd (q, s, z, q, s, z, o, z) y = DequantizeLinear (p, o, z)""",
    "of a product": """t = MatMul (x, m) q = QuantizeLinear (t, s, z)
        p = com.microsoft.QLinearMul (q, s, z, q, s, z, o, z) y = DequantizeLinear (p, o, z)""",
}


@pytest.mark.parametrize("scale", [0, 1e-42], ids=["zero", "subnormal"])
@pytest.mark.parametrize("case", SCALE_OF_ZERO)
def test_a_scale_that_is_next_to_nothing(case: str, scale: float, tmp_path: Path) -> None:
    path, nodes = tmp_path / "model.onnx", SCALE_OF_ZERO[case]
    weights: Weights = {
        "m": (4, 4),
        "v": np.zeros((4, 4), np.float32),
        "w": random.integers(0, 255, (4, 4)).astype(np.uint8),
        "o": np.array(scale, np.float32),
        "s": np.array(0.02, np.float32),
        "z": np.array(10, np.uint8),
    }
    used = {name: value for name, value in weights.items() if re.search(rf"\b{name}[,)]", nodes)}
    header = 'ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]'
    model = load(path, f"net (float[N,4] x) => (float[N,4] y) {{ {nodes} }}", used, header)
    x = torch.tensor([[0, 1, -1, 0.5], [0, 0, 0, 0]], requires_grad=True)
    torch.testing.assert_close(run(model, x)[0], runtime(path, x.detach()), rtol=1e-5, atol=1e-39)
    model.train()(x).square().sum().backward()
    found = {"x": x.grad} | {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in found.values())
    write_back(model, tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == path.read_bytes()
