"""Shapes that are computed at run time, and files that fix the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_models import without_payloads
from onnx_text import Weights, assert_as_runtime, load, run
from torch import fx

from reparam_kit.onnx import diff, write_back


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def assert_any_batch(model: fx.GraphModule, path: Path, *shape: int) -> None:
    """The file has a fixed batch of 1; several rows must give what it gives for each."""
    x = torch.randn(3, *shape)
    for i in range(3):
        assert_as_runtime(model, path, x[i : i + 1])
    rows = torch.cat([run(model, row)[0] for row in x.split(1)])
    torch.testing.assert_close(run(model, x)[0], rows, rtol=1e-5, atol=1e-5)


DYNAMIC = {
    "flatten": """s = Shape (x) n = Gather <axis = 0> (s, zero) n1 = Unsqueeze (n, axes0)
        t = Concat <axis = 0> (n1, rest) y = Reshape (x, t)""",
    "arithmetic": """s = Shape (x) n = Slice (s, axes0, one1) c = Slice (s, one1, two1) h = Div (c, two1)
        t = Concat <axis = 0> (n, two1, h, rest) y = Reshape (x, t)""",
    "expand": "s = Shape (x) y = Expand (row, s)",
    "resize": """s = Shape (x) n = Slice (s, axes0, two1) w = Slice (s, two1, four1) v = Mul (w, two1)
        t = Concat <axis = 0> (n, v) y = Resize <mode = "linear"> (x, , , t)""",
    "filled": "s = Shape (x) o = ConstantOfShape <value = float[1] {2.0}> (s) y = Mul (x, o)",
    "counted": "s = Shape (x) n = Gather (s, three) r = Range (zero, n, one) f = Cast <to = 1> (r) y = Add (x, f)",
    "split": "a, b = Split <axis = 1> (x, halves) y = Concat <axis = 1> (b, a)",
    "split sizes": """s = Shape (x) n, c = Split <axis = 0> (s, halves) t = Concat <axis = 0> (n, rest)
        y = Reshape (x, t)""",
    "sequence of equal parts": """q = SplitToSequence <axis = 1> (x, two) a = SequenceAt (q, zero)
        b = SequenceAt (q, one) y = Sub (a, b)""",
    "sequence of single channels": """q = SplitToSequence <axis = 1> (x) a = SequenceAt (q, three)
        r = SplitToSequence <axis = 1, keepdims = 0> (x) b = SequenceAt (r, zero) c = Unsqueeze (b, one1)
        y = Sub (a, c)""",
    "sequence": """q = SplitToSequence <axis = 1> (x, halves) b = SequenceAt (q, one)
        r = SplitToSequence <axis = 2> (b, one) c = SequenceAt (r, zero) y = Add (b, c)""",
}
INTEGERS: Weights = {
    "zero": np.array(0),
    "one": np.array(1),
    "two": np.array(2),
    "three": np.array(3),
    "axes0": np.array([0]),
    "one1": np.array([1]),
    "two1": np.array([2]),
    "four1": np.array([4]),
    "rest": np.array([-1]),
    "halves": np.array([1, 3]),
    "row": np.arange(6, dtype=np.float32),
}


@pytest.mark.parametrize("nodes", DYNAMIC.values(), ids=DYNAMIC)
def test_shape_arithmetic(nodes: str, path: Path) -> None:
    text = f"net (float[N,4,H,W] x) => (float y) {{ {nodes} }}"
    model = load(path, text, INTEGERS)
    for batch, height in ((1, 5), (3, 4)):
        assert_as_runtime(model, path, torch.randn(batch, 4, height, 6))
    x = torch.randn(2, 4, 5, 6)
    assert_as_runtime(fx.symbolic_trace(model), path, x)
    # A device without values: fails where a shape is computed on it, or where a CPU tensor meets one of the model's.
    assert model.to("meta")(x.to("meta")).shape == run(load(path, text, INTEGERS), x)[0].shape


FIXED = {
    "flatten": 'y = Reshape (x, "1,-1")',
    "channel shuffle": """a = Reshape (x, "1,2,2,4,6") b = Transpose <perm = [0,2,1,3,4]> (a)
        y = Reshape (b, "1,4,4,6")""",
    "copied dimension": 'y = Reshape (x, "1,0,24")',
    "after a pool": 'p = GlobalAveragePool (x) y = Reshape (p, "1,4")',
    "resize to a size": 'a = Resize <mode = "nearest"> (x, , , "1,4,8,12") y = Relu (a)',
    "after -1": 'a = Reshape (x, "-1,4,24") y = Reshape (a, "1,96")',
    "joined sizes": """s = Shape (x) c = Slice (s, "1,", "2,") t = Concat <axis = 0> ("1,", c, "-1,")
        y = Reshape (x, t)""",
    "joined constants": 't = Concat <axis = 0> ("1,", "-1,") y = Reshape (x, t)',
    "sizes passed on": 's = Identity ("1,-1") f = Cast <to = 1> (s) t = Cast <to = 7> (f) y = Reshape (x, t)',
    "expanded": 'p = GlobalAveragePool (x) t = Expand (p, "1,4,4,6") y = Add (t, x)',
    "matrix product": 'a = Reshape (x, "-1,96") b = MatMul (a, matrix) y = Reshape (b, "1,1,5")',
    "rows of nothing": 'z = ConstantOfShape ("1,2,4,6") y = Concat <axis = 1> (x, z)',
    "attention": """a = Reshape (x, "1,4,24") b = Transpose <perm = [0,2,1]> (a) c = MatMul (b, a)
        y = Reshape (c, "1,576")""",
}


@pytest.mark.parametrize("nodes", FIXED.values(), ids=FIXED)
def test_a_fixed_batch_is_freed(nodes: str, path: Path) -> None:
    parts = {part for part in nodes.split('"')[1::2] if "," in part}
    weights: Weights = {part: np.array(part.strip(",").split(","), np.int64) for part in parts}
    model = load(path, f"net (float[1,4,4,6] x) => (float y) {{ {nodes} }}", {**weights, "matrix": (96, 5)})
    assert_any_batch(model, path, 4, 4, 6)


def test_writing_back_keeps_the_fixed_batch(path: Path) -> None:
    text = """net (float[1,4,4,6] x) => (float[1,5] y) {
        c = Conv (x, w) a = Reshape (c, flat) y = MatMul (a, matrix)
    }"""
    weights: Weights = {"w": (4, 4, 1, 1), "flat": np.array([1, 96]), "matrix": (96, 5)}
    model = load(path, text, weights)
    model(torch.randn(3, 4, 4, 6)).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 0.01 * parameter.grad
    write_back(model, path.with_name("new.onnx"))
    assert len(diff(path, path.with_name("new.onnx")).payloads) == 2
    assert without_payloads(path.with_name("new.onnx")) == without_payloads(path)
    assert_as_runtime(model, path.with_name("new.onnx"), torch.randn(1, 4, 4, 6))


def test_a_net_of_free_size_that_needs_a_large_image(path: Path) -> None:
    pools = " ".join(f"p{i + 1} = MaxPool <kernel_shape = [3,3], strides = [2,2]> (p{i})" for i in range(6))
    nodes = f"p0 = Identity (x) {pools} y = GlobalAveragePool (p6)"
    model = load(path, f"net (float[N,3,H,W] x) => (float y) {{ {nodes} }}")
    for batch, size in ((1, 128), (2, 200)):
        assert_as_runtime(model, path, torch.randn(batch, 3, size, size))


def test_a_position_embedding_made_from_the_shape(path: Path) -> None:
    """Its numbers are known at import and pass a layer; the ranks of what they are added to stay known."""
    model = load(
        path,
        """net (float[N,3,8,8] x) => (float[N,3] y) {
            s = Shape (x)
            ones = ConstantOfShape <value = float[1] {1.0}> (s)
            place = CumSum (ones, axis)
            embedding = Conv (place, w)
            sum = Add (x, embedding)
            pooled = GlobalAveragePool (sum)
            y = Flatten (pooled)
        }""",
        {"w": np.random.randn(3, 3, 1, 1).astype(np.float32), "axis": np.array(3)},
    )
    assert_as_runtime(model, path, torch.randn(2, 3, 8, 8))


def test_allowzero_of_a_freed_reshape(path: Path) -> None:
    text = "net (float[1,4,2] x) => (float[1,8] y) { y = Reshape <allowzero = 1> (x, shape) }"
    assert_any_batch(load(path, text, {"shape": np.array([1, 8])}), path, 4, 2)
