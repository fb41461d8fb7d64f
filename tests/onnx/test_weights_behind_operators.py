"""Weights that reach their layer through operators: trained in the layer's form, written back through the inverse."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx_text import Weights, load, run, write
from quantized import runtime
from torch import nn

from reparam_kit import as_written, check_import, diff, expand, fold, inspect
from reparam_kit.onnx import import_onnx, write_back

random = np.random.default_rng(0)
HALF, DOUBLE = np.float16, np.float64


def floats(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return random.standard_normal(shape).astype(dtype)


def between(low: float, high: float, *shape: int) -> np.ndarray:
    return random.uniform(low, high, shape).astype(np.float32)


def levels(*shape: int) -> np.ndarray:
    return random.integers(-90, 90, shape).astype(np.int8)


# Nodes that make the weight f [8,4,3,3] (or [8,1,3,3] for groups) of what the file stores as w.
BEHIND: dict[str, tuple[str, Weights]] = {
    "Cast from half": ("f = Cast <to = 1> (w)", {"w": floats(8, 4, 3, 3, dtype=HALF)}),
    "Cast to half and back": ("a = Cast <to = 10> (w) f = Cast <to = 1> (a)", {"w": floats(8, 4, 3, 3)}),
    "Cast from double to bfloat16 and back": (
        "a = Cast <to = 16> (w) f = Cast <to = 1> (a)",
        {"w": floats(8, 4, 3, 3, dtype=DOUBLE)},
    ),
    "Cast from double": ("f = Cast <to = 1> (w)", {"w": floats(8, 4, 3, 3, dtype=DOUBLE)}),
    "CastLike": ("f = CastLike (w, x)", {"w": floats(8, 4, 3, 3, dtype=HALF)}),
    "Transpose": ("f = Transpose <perm = [3,2,0,1]> (w)", {"w": floats(3, 3, 4, 8)}),
    "two of Transpose": (
        "a = Transpose <perm = [1,2,0,3]> (w) f = Transpose <perm = [3,0,2,1]> (a)",
        {"w": floats(3, 4, 3, 8)},
    ),
    "Reshape": ('f = Reshape (w, "8,4,3,3")', {"w": floats(8, 36)}),
    "Transpose and Reshape": (
        'a = Transpose <perm = [1,0]> (w) f = Reshape (a, "8,4,3,3")',
        {"w": floats(36, 8)},
    ),
    "Reshape, Transpose, Reshape": (
        'a = Reshape (w, "3,3,4,2,4") b = Transpose <perm = [4,3,2,0,1]> (a) f = Reshape (b, "8,4,3,3")',
        {"w": floats(9, 32)},
    ),
    "Unsqueeze": ('f = Unsqueeze (w, "3,")', {"w": floats(8, 4, 3)}),
    "Squeeze": ('f = Squeeze (w, "0,")', {"w": floats(1, 8, 4, 3, 3)}),
    "Flatten": ('a = Flatten <axis = 2> (w) f = Reshape (a, "8,4,3,3")', {"w": floats(8, 4, 3, 3)}),
    "Mul by a number": ("f = Mul (w, k)", {"w": floats(8, 4, 3, 3), "k": np.array(0.3, np.float32)}),
    "Mul by one a channel": ("f = Mul (k, w)", {"w": floats(8, 4, 3, 3), "k": between(0.5, 2, 8, 1, 1, 1)}),
    "Div": ("f = Div (w, k)", {"w": floats(8, 4, 3, 3), "k": between(0.5, 2, 8, 1, 1, 1)}),
    "Add": ("f = Add (k, w)", {"w": floats(8, 4, 3, 3), "k": between(-1, 1, 4, 1, 1)}),
    "Sub": ("f = Sub (w, k)", {"w": floats(8, 4, 3, 3), "k": between(-1, 1, 1)}),
    "Neg": ("f = Neg (w)", {"w": floats(8, 4, 3, 3)}),
    "the arithmetic of a batch norm": (
        "a = Add (k, e) b = Sqrt (a) c = Div (g, b) f = Mul (w, c)",
        {
            "w": floats(8, 4, 3, 3),
            "k": between(0.5, 2, 8, 1, 1, 1),
            "e": np.array(1e-5, np.float32),
            "g": between(0.5, 2, 8, 1, 1, 1),
        },
    ),
    "Cast, Mul, Transpose": (
        "a = Cast <to = 1> (w) b = Mul (a, k) f = Transpose <perm = [3,2,0,1]> (b)",
        {"w": floats(3, 3, 4, 8, dtype=HALF), "k": between(0.5, 2, 8)},
    ),
    "Transpose of integers": (
        "a = Transpose <perm = [3,2,0,1]> (w) f = DequantizeLinear <axis = 0> (a, k)",
        {"w": levels(3, 3, 4, 8), "k": between(0.01, 0.02, 8)},
    ),
    "integers that are then transposed": (
        "a = DequantizeLinear <axis = 3> (w, k) f = Transpose <perm = [3,2,0,1]> (a)",
        {"w": levels(3, 3, 4, 8), "k": between(0.01, 0.02, 8)},
    ),
    "Reshape, DequantizeLinear, Transpose": (
        'a = Reshape (w, "3,3,4,8") b = DequantizeLinear <axis = 3> (a, k) f = Transpose <perm = [3,2,0,1]> (b)',
        {"w": levels(9, 4, 8), "k": between(0.01, 0.02, 8)},
    ),
    "Cast, then rounded in every pass": (
        "a = Cast <to = 1> (w) q = QuantizeLinear <axis = 0> (a, k, z) f = DequantizeLinear <axis = 0> (q, k, z)",
        {"w": floats(8, 4, 3, 3, dtype=HALF), "k": between(0.02, 0.03, 8), "z": np.zeros(8, np.int8)},
    ),
    "dequantised by hand": (
        "a = Cast <to = 1> (w) b = Sub (a, z) f = Mul (k, b)",
        {"w": levels(8, 4, 3, 3), "k": between(0.02, 0.03, 8, 1, 1, 1), "z": np.array(3, np.float32)},
    ),
    "dequantised by hand, then transposed": (
        "a = Cast <to = 1> (w) b = Div (a, k) f = Transpose <perm = [3,2,0,1]> (b)",
        {"w": levels(3, 3, 4, 8), "k": between(30, 40, 8)},
    ),
    "Mul of what integers stand for": (
        "a = DequantizeLinear <axis = 0> (w, k) f = Mul (a, s)",
        {"w": levels(8, 4, 3, 3), "k": between(0.2, 0.3, 8), "s": np.array(0.1, np.float32)},
    ),
    "TensorFlow's depthwise": (
        'a = Transpose <perm = [3,2,0,1]> (w) f = Reshape (a, "8,1,3,3")',
        {"w": floats(3, 3, 4, 2)},
    ),
}


def text_of(nodes: str, group: int = 1) -> tuple[str, Weights]:
    """Return a net, and the shapes that its nodes name."""
    shapes = {name: np.array(name.strip(",").split(","), np.int64) for name in nodes.split('"')[1::2]}
    return f"net (float[N,4,6,6] x) => (float y) {{ {nodes} y = Conv <group = {group}> (x, f) }}", shapes


@pytest.mark.parametrize("case", BEHIND)
def test_a_weight_behind_operators_is_trained_and_written(case: str, tmp_path: Path) -> None:
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    nodes, weights = BEHIND[case]
    text, shapes = text_of(nodes, 4 if "depthwise" in case else 1)
    model = load(path, text, {**weights, **shapes})
    x = torch.randn(2, 4, 6, 6)
    assert check_import(model, x) is None
    [site] = inspect(model)
    assert site.reason is None

    write_back(fold(expand(model)), new)
    assert new.read_bytes() == path.read_bytes()

    conv = model.get_submodule(site.name)
    assert isinstance(conv, nn.Conv2d)
    model(x).square().sum().backward()
    assert conv.weight.grad is not None
    step = torch.zeros_like(conv.weight)
    step.view(-1)[::3] = 0.1  # a part of the numbers
    with torch.no_grad():
        conv.weight += step
    written = as_written(model)
    write_back(written, new)
    difference = diff(path, new)
    assert difference.same_graph
    assert len(difference.payloads) == 1
    torch.testing.assert_close(run(written, x)[0], runtime(new, x), rtol=1e-4, atol=1e-4)
    before, after = (numpy_helper.to_array(onnx.load(file).graph.initializer[0]) for file in (path, new))
    assert (before != after).sum() == step.count_nonzero()
    again = import_onnx(new)
    write_back(again, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == new.read_bytes()


# Nodes through which there is no way back, and the words for it.
LOST: dict[str, tuple[str, Weights, str]] = {
    "Sin": ("a = Sin (w) f = Neg (a)", {"w": floats(8, 4, 3, 3)}, r"initializer 'w' passes node 'a' \(Sin\)"),
    "zeros": (
        "f = Mul (w, k)",
        {"w": floats(8, 4, 3, 3), "k": np.eye(3, dtype=np.float32)},
        r"'w' passes node 'f' \(Mul\)",
    ),
    "a mask": (
        "f = Mul (k, w)",
        {"w": floats(8, 4, 3, 3), "k": (floats(8, 4, 3, 3) > 0).astype(np.float32)},
        r"passes node 'f' \(Mul\)",
    ),
    "a wider constant": (
        "f = Mul (w, k)",
        {"w": floats(4, 3, 3), "k": floats(8, 1, 1, 1)},
        r"'w' passes node 'f' \(Mul\)",
    ),
    "a constant over it": (
        "f = Div (k, w)",
        {"w": between(1, 2, 8, 4, 3, 3), "k": between(1, 2, 1)},
        r"'k' passes node 'f' \(Div\)",
    ),
    "two ways": (
        "a = Transpose <perm = [0,1,3,2]> (w) f = Add (a, w)",
        {"w": floats(8, 4, 3, 3)},
        "initializer 'w' is used in other ways too",
    ),
    "a mask of what integers stand for": (
        "a = DequantizeLinear <axis = 0> (w, k) f = Mul (a, s)",
        {"w": levels(8, 4, 3, 3), "k": between(0.01, 0.02, 8), "s": np.eye(3, dtype=np.float32)},
        r"'w' passes node 'f' \(Mul\)",
    ),
    "a shift between levels": (
        "a = DequantizeLinear <axis = 0> (w, k) f = Add (a, s)",
        {"w": levels(8, 4, 3, 3), "k": between(0.01, 0.02, 8), "s": np.array(0.3, np.float32)},
        r"'w' passes node 'f' \(Add\)",
    ),
    "a function": (
        "f = own.made (w)",
        {"w": floats(8, 4, 3, 3)},
        r"node '.*' \(Constant\) holds its numbers in a function",
    ),
}


@pytest.mark.parametrize("case", LOST)
def test_a_weight_that_cannot_be_had_back_says_why(case: str, tmp_path: Path) -> None:
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    nodes, weights, reason = LOST[case]
    text, shapes = text_of(nodes)
    header = 'ir_version: 8, opset_import: ["" : 17, "own" : 1]'
    if case == "a function":
        text += """ <opset_import: ["" : 17], domain: "own">
            made (b) => (c) { k = Constant <value = float[1] {2.0}> () a = Sin (k) c = Div (a, b) }"""
    write(path, text, {**weights, **shapes}, header)
    model = import_onnx(path)
    [site] = inspect(model)
    assert site.reason is not None
    assert site.reason.startswith("frozen: ")
    assert re.search(reason, site.reason)
    write_back(model, new)
    assert new.read_bytes() == path.read_bytes()
