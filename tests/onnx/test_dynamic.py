"""Layers that quantise what they take themselves, in the place of the nodes of a dynamically quantised file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_text import Weights, load, run
from quantized import runtime
from torch import nn

from reparam_kit import check_import, expand, fold
from reparam_kit.onnx import write_back
from reparam_kit.onnx.importer.dynamic import Dynamic

CONV = """q, s, z = DynamicQuantizeLinear (x) f = Mul (s, ws)
    i = ConvInteger <pads = [1,1,1,1]> (q, w, z, wz) c = Cast <to = 1> (i)"""
NET = f"net (float[N,3,6,6] x) => (float[N,4,6,6] y) {{ {CONV} BEHIND }}"
random = np.random.default_rng(0)


def weights(*scale: int) -> Weights:
    return {
        "w": random.integers(0, 255, (4, 3, 3, 3)).astype(np.uint8),
        "wz": np.array(120, np.uint8),
        "ws": random.uniform(0.01, 0.02, scale).astype(np.float32),
        "b": random.standard_normal((4, 1, 1)).astype(np.float32),
    }


def joined(model: nn.Module) -> int:
    return sum(isinstance(module, Dynamic) for module in model.modules())


# What stands behind the sums, and whether nothing but their product with the scales is read.
BEHIND = {
    "product": ("y = Mul (c, f)", True),
    "the other way round": ("y = Mul (f, c)", False),
    "product and bias": ("m = Mul (c, f) y = Add (m, b)", True),
    "sums are read too": ("m = Mul (c, f) y = Add (m, c)", False),
    "another product": ("m = Mul (c, f) k = Mul (c, s) y = Add (m, k)", False),
    "levels are read too": ("m = Mul (c, f) k = Cast <to = 1> (q) g = ReduceMean (k) y = Add (m, g)", True),
    "no scale of the input": ("y = Mul (c, ws)", False),
}


@pytest.mark.parametrize("case", BEHIND)
def test_a_layer_stands_for_nodes_of_which_nothing_else_is_read(case: str, tmp_path: Path) -> None:
    behind, can_be = BEHIND[case]
    path = tmp_path / "model.onnx"
    model, x = load(path, NET.replace("BEHIND", behind), weights()), torch.randn(3, 3, 6, 6)
    assert joined(model) == can_be
    assert torch.equal(run(model, x)[0], runtime(path, x))
    assert check_import(model, x) is None or "among others than alone" in str(check_import(model, x))
    student = expand(model)
    write_back(fold(student), tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("scale", [(), (4, 1, 1)])
def test_training_is_as_without_rounding_of_what_comes(scale: tuple[int, ...], tmp_path: Path) -> None:
    model = load(tmp_path / "model.onnx", NET.replace("BEHIND", "y = Mul (c, f)"), weights(*scale))
    x = torch.randn(3, 3, 6, 6, requires_grad=True)
    with torch.no_grad():
        exact = model(x)
    y = model.train()(x)
    torch.testing.assert_close(y.detach(), exact, rtol=1e-5, atol=1e-5)
    [layer] = [module for module in model.modules() if isinstance(module, Dynamic)]
    grad = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, layer.weight], grad)
    plain = nn.functional.conv2d(x, layer.weight, padding=1)
    for ours, theirs in zip(found, torch.autograd.grad(plain, [x, layer.weight], grad), strict=True):
        assert nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.999


@pytest.mark.parametrize(
    ("cast", "scale"),
    [
        ("h = Cast <to = 10> (i) c = Cast <to = 1> (h)", ()),
        ("c = Cast <to = 1> (i)", (1, 1, 1)),
        ("c = Cast <to = 1> (i)", (4, 1)),
    ],
    ids=["sums rounded to half", "a factor of higher rank", "a factor for each row"],
)
def test_what_is_not_one_product_of_outputs_stays_as_it_is(
    cast: str, scale: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    model = load(
        path,
        f"""net (float[4,3] x) => (float y) {{
            q, s, z = DynamicQuantizeLinear (x) f = Mul (s, ws) i = MatMulInteger (q, m, z) {cast} y = Mul (c, f)
        }}""",
        {"m": random.integers(-90, 90, (3, 4)).astype(np.int8), "ws": weights(*scale)["ws"]},
    )
    assert not joined(model)
    x = torch.randn(4, 3)
    found = run(model, x)[0]
    assert found.shape == runtime(path, x).shape
    assert torch.equal(found, runtime(path, x))
    torch.testing.assert_close(model.train()(x), found)
