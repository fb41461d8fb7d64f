"""Quantised nets in training: what may be trained, and that it is what is written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_text import Weights, load, run
from quantized import CONV, integers, random, runtime, settings_of

from reparam_kit import expand, fold
from reparam_kit.errors import NothingToDoError
from reparam_kit.onnx import import_onnx, write_back
from reparam_kit.onnx.importer.fake import fake_quantised
from reparam_kit.onnx.importer.ops.quantize import dequantized, levels
from reparam_kit.onnx.run import Session


def assert_not_trained(folder: Path, text: str, weights: Weights) -> None:
    """Imported and written back as it is, and no parameter asks for a gradient."""
    path = folder / "model.onnx"
    model = load(path, text, weights)
    x = torch.randn(2, 4)
    torch.testing.assert_close(run(model, x)[0], runtime(path, x), rtol=1e-5, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    write_back(model, folder / "new.onnx")
    assert (folder / "new.onnx").read_bytes() == path.read_bytes()


def test_integers_that_stand_for_two_weights_are_not_trained(tmp_path: Path) -> None:
    text = """net (float[N,4] x) => (float[N,4] y) {
        a = DequantizeLinear (w, s) b = DequantizeLinear (w, t) m = MatMul (x, a) y = MatMul (m, b)
    }"""
    weights: Weights = {
        "w": random.integers(-9, 9, (4, 4)).astype(np.int8),
        "s": np.array(0.1, np.float32),
        "t": np.array(0.2, np.float32),
    }
    assert_not_trained(tmp_path, text, weights)


# What may stand between a QuantizeLinear and its DequantizeLinear, from q [N,4,8,8] to r.
BETWEEN = {
    "nothing": "r = Identity (q)",
    "clip": "r = Clip (q, low, high)",
    "clip from below": "r = Clip (q, low)",
    "cast": "r = Cast <to = 2> (q)",
    "cast there and back": "i = Cast <to = 6> (q) r = Cast <to = 2> (i)",
    "relu": "i = Cast <to = 6> (q) m = Max (i, five) r = Cast <to = 2> (m)",
    "max pool": "r = MaxPool <kernel_shape = [2,2], strides = [2,2]> (q)",
    "max pool with padding on one side": "r = MaxPool <kernel_shape = [2,2], pads = [0,0,1,1]> (q)",
    "reshape": 'r = Reshape (q, "0,4,-1")',
    "flatten": "r = Flatten (q)",
    "transpose": "r = Transpose <perm = [0,1,3,2]> (q)",
    "concat": "r = Concat <axis = 1> (q, q)",
    "concat with a constant": "r = Concat <axis = 1> (q, k)",
    "split": "r, t = Split <axis = 1> (q)",
    "slice": 'r = Slice (q, "0,", "6,", "2,")',
    "pad": 'r = Pad (q, "0,0,1,0,0,0,0,1", high)',
    "resize": 'r = Resize <mode = "nearest"> (q, , twice)',
    "unsqueeze and squeeze": 'u = Unsqueeze (q, "1,") r = Squeeze (u, "1,")',
    "gather": 'r = Gather <axis = 1> (q, "0,2")',
    "gather one": 'r = Gather <axis = 2> (q, "3")',
    "gather points": 'r = GatherND (q, "0,1")',
    "depth to space": "r = DepthToSpace <blocksize = 2> (q)",
    "expand": 'u = Unsqueeze (q, "1,") r = Expand (u, "1,3,1,1,1")',
    "tile": 'r = Tile (q, "1,1,2,1")',
    "where": "b = Less (low, high) r = Where (b, q, k)",
    "largest": "r = ReduceMax <axes = [2]> (q)",
    "of two": "f = Identity (q) r = Max (q, f)",
    "sum": "i = Cast <to = 6> (q) j = Add (i, i) r = Cast <to = 2> (j)",
    "half": "i = Cast <to = 6> (q) j = Div (i, two) r = Cast <to = 2> (j)",
}
BETWEEN_WEIGHTS: Weights = {
    "low": np.array(100, np.uint8),
    "high": np.array(140, np.uint8),
    "five": np.array(125, np.int32),
    "two": np.array(2, np.int32),
    "k": np.full((1, 4, 8, 8), 9, np.uint8),
    "twice": np.array([1, 1, 2, 2], np.float32),
}


@pytest.mark.parametrize("batch", ["N", "1"])
@pytest.mark.parametrize("case", BETWEEN)
def test_what_moves_integers_lets_the_gradient_through(case: str, batch: str, tmp_path: Path) -> None:
    path, nodes = tmp_path / "model.onnx", BETWEEN[case]
    text = f"""net (float[{batch},4,8,8] x) => (float y) {{
        q = QuantizeLinear (x, s, z) {nodes} y = DequantizeLinear (r, s, z)
    }}"""
    weights: Weights = {"s": np.array(0.1, np.float32), "z": np.array(120, np.uint8)}
    for literal in nodes.split('"')[1::2]:
        if literal != "nearest":
            array = np.array(literal.strip(",").split(","), np.int64)
            weights = {**weights, literal: array if "," in literal else array.reshape(())}
    used = {name: value for name, value in BETWEEN_WEIGHTS.items() if name in nodes}
    model = load(path, text, {**weights, **used})
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    y = model(x)
    torch.testing.assert_close(y.detach(), runtime(path, x.detach()), rtol=0, atol=1e-6)
    y.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0
    if case == "clip":
        outside = (x < -2.2) | (x > 2.2)
        assert outside.any()
        assert (x.grad[outside] == 0).all()


# What quantises numbers by arithmetic of their own, from x [N,4] to y.
BY_HAND = {
    "rounded and clipped": "a = Div (x, s) r = Round (a) c = Clip (r, low, high) y = Mul (c, s)",
    "clipped and rounded": "a = Div (x, s) c = Clip (a, low, high) r = Round (c) y = Mul (r, s)",
    "rounded down": "a = Div (x, s) b = Add (a, half) f = Floor (b) c = Clip (f, low, high) y = Mul (c, s)",
    "bounded on one side": "a = Div (x, s) f = Ceil (a) c = Max (f, low) y = Mul (c, s)",
    "as integers": "a = Div (x, s) f = Floor (a) i = Cast <to = 3> (f) c = Cast <to = 1> (i) y = Mul (c, s)",
    "cut to integers": """a = Div (x, s) i = Cast <to = 3> (a) m = Clip (i, small, large) c = Cast <to = 1> (m)
        y = Mul (c, s)""",
}


@pytest.mark.parametrize("case", BY_HAND)
def test_arithmetic_that_quantises_lets_the_gradient_through(case: str, tmp_path: Path) -> None:
    path, nodes = tmp_path / "model.onnx", BY_HAND[case]
    weights: Weights = {
        "s": np.array(0.125, np.float32),
        "half": np.array(0.5, np.float32),
        "low": np.array(-9, np.float32),
        "high": np.array(9, np.float32),
        "small": np.array(-9, np.int8),
        "large": np.array(9, np.int8),
    }
    used = {name: value for name, value in weights.items() if re.search(rf"\b{name}[,)]", nodes)}
    model = load(path, f"net (float[N,4] x) => (float[N,4] y) {{ {nodes} }}", used)
    x = (2 * torch.randn(9, 4)).requires_grad_()
    y = model(x)
    assert y.equal(runtime(path, x.detach()))
    y.sum().backward()
    assert x.grad is not None
    below, above = {"low", "small"} & used.keys(), {"high", "large"} & used.keys()
    assert (x.grad[x.abs() < 0.9] == 1).all()
    assert (x.grad[x < -1.3] == (0 if below else 1)).all()
    assert (x.grad[x > 1.3] == (0 if above else 1)).all()


def test_the_part_behind_the_point_has_the_gradient_of_the_number(tmp_path: Path) -> None:
    model = load(
        tmp_path / "model.onnx", "net (float[N,4] x) => (float[N,4] y) { f = Floor (x) y = Sub (x, f) }"
    )
    x = torch.randn(9, 4, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None
    assert (x.grad == 1).all()


STORED = {
    "convolution": (
        "[N,3,8,8]",
        "d = DequantizeLinear <axis = 0> (w, s, z) y = Conv (x, d)",
        (4, 3, 3, 3),
        0,
    ),
    "transposed": (
        "[N,3,8,8]",
        "d = DequantizeLinear <axis = 1> (w, s, z) y = ConvTranspose (x, d)",
        (3, 4, 3, 3),
        1,
    ),
    "matrix": ("[N,3]", "d = DequantizeLinear <axis = 1> (w, s, z) y = MatMul (x, d)", (3, 4), 1),
    "gemm": ("[N,3]", "d = DequantizeLinear <axis = 0> (w, s, z) y = Gemm <transB = 1> (x, d)", (4, 3), 0),
    "on the left": ("[3,N]", "d = DequantizeLinear <axis = 0> (w, s, z) y = MatMul (d, x)", (4, 3), 0),
    "slope": ("[N,4,8,8]", "d = DequantizeLinear <axis = 0> (w, s, z) y = PRelu (x, d)", (4, 1, 1), 0),
}


@pytest.mark.parametrize("case", STORED)
def test_what_is_trained_is_what_is_written(case: str, tmp_path: Path) -> None:
    sizes, nodes, shape, axis = STORED[case]
    weights: Weights = {
        "w": random.integers(-90, 90, shape).astype(np.int8),
        "s": random.uniform(0.01, 0.03, shape[axis]).astype(np.float32),
        "z": random.integers(-9, 9, shape[axis]).astype(np.int8),
    }
    path = tmp_path / "model.onnx"
    model = load(path, f"net (float{sizes} x) => (float y) {{ {nodes} }}", weights)
    x = torch.randn([2 if n == "N" else int(n) for n in sizes.strip("[]").split(",")])
    [(name, parameter)] = model.named_parameters()
    model(x).square().sum().backward()
    assert parameter.grad is not None
    assert parameter.grad.abs().max() > 0
    parameter.data += torch.randn(parameter.shape)
    parameter.data.view(-1)[0] += 9  # beyond the last level
    write_back(model, tmp_path / "new.onnx")
    torch.testing.assert_close(run(model, x)[0], runtime(tmp_path / "new.onnx", x), rtol=1e-5, atol=1e-5)
    again = dict(import_onnx(tmp_path / "new.onnx").named_parameters())[name]
    assert (again != parameter).any()
    model.zero_grad()
    model(x).square().sum().backward()
    assert (parameter.grad == 0).any()


@pytest.mark.parametrize("scale", [1 / 127, 0.1 / 127, 0.3, 1e-3])
@pytest.mark.parametrize("level", [-128, 127])
@pytest.mark.parametrize("stored", ["integers", "numbers"])
def test_a_weight_at_the_last_level_is_trained(stored: str, level: int, scale: float, tmp_path: Path) -> None:
    """A quantiser puts the largest weight of each channel there: rounded, it may be just beyond the level."""
    s = np.full(4, scale, np.float32)
    integers_there = np.full((4, 3), level, np.int8)
    numbers = np.asarray(integers_there, np.float32) * s[0] * np.float32(1.0000002)
    quantise = "q = QuantizeLinear <axis = 0> (w, s, z)" if stored == "numbers" else "q = Identity (w)"
    text = f"""net (float[N,3] x) => (float[N,4] y) {{
        {quantise} d = DequantizeLinear <axis = 0> (q, s, z) y = Gemm <transB = 1> (x, d)
    }}"""
    weights: Weights = {
        "w": numbers if stored == "numbers" else integers_there,
        "s": s,
        "z": np.zeros(4, np.int8),
    }
    model = load(tmp_path / "model.onnx", text, weights)
    [parameter] = model.parameters()
    model(torch.ones(2, 3)).sum().backward()
    assert parameter.grad is not None
    torch.testing.assert_close(parameter.grad, torch.full((4, 3), 2.0))


@pytest.mark.parametrize("batch", ["N", "1"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("layer", ["Conv", "Gemm"])
def test_what_follows_a_quantised_layer_knows_its_rank(
    layer: str, per_channel: bool, batch: str, tmp_path: Path
) -> None:
    """Whatever asks for it: a reduction over all dimensions, or what keeps the images of a freed batch apart."""
    size, shape = ("3,6,6", (4, 3, 3, 3)) if layer == "Conv" else ("3", (4, 3))
    conv = "c = Conv (x, d)" if layer == "Conv" else "c = Gemm <transB = 1> (x, d)"
    count = (4,) if per_channel else ()
    weights: Weights = {
        "w": random.integers(-90, 90, shape).astype(np.int8),
        "ws": np.full(count, 0.01, np.float32),
        "wz": np.zeros(count, np.int8),
        "s": np.array(0.03, np.float32),
        "z": np.array(120, np.uint8),
    }
    text = f"""net (float[{batch},{size}] x) => (float y) {{
        d = DequantizeLinear <axis = 0> (w, ws, wz) {conv} q = QuantizeLinear (c, s, z)
        f = DequantizeLinear (q, s, z) n = ReduceL2 (f) y = Div (f, n)
    }}"""
    path = tmp_path / "model.onnx"
    model = load(path, text, weights)
    images = torch.randn([3, *map(int, size.split(","))])
    found = [run(model, x)[0] for x in images.split(1)]
    if batch == "1":
        found = list(run(model, images)[0].split(1))
    for image, y in zip(images.split(1), found, strict=True):
        torch.testing.assert_close(y, runtime(path, image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["scale", "none"])
def test_branches_are_added_before_the_sum_is_rounded(norm: str, tmp_path: Path) -> None:
    model = load(tmp_path / "model.onnx", CONV, settings_of(True, np.int8))
    student = expand(model, norm=norm)
    x = 2 * torch.randn(2, 3, 8, 8)
    assert run(student, x)[0].equal(run(model, x)[0])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
    write_back(fold(student), tmp_path / "new.onnx")
    torch.testing.assert_close(run(student, x)[0], runtime(tmp_path / "new.onnx", x), rtol=0, atol=0.031)
    assert (run(student, x)[0] != runtime(tmp_path / "new.onnx", x)).float().mean() < 0.01
    with pytest.raises(NothingToDoError, match="forward of its own"):
        expand(model, norm="batch")


# From x [N,4,3,3] and a weight w that the file stores as numbers, with s and z along its first dimension of 4, to y.
# Files after quantisation-aware training: onnxruntime's with AddQDQPairToWeight, TensorRT's, Brevitas' (with a Clip).
_QUANTIZE = "q = QuantizeLinear <axis = 0> (w, s, z)"
_PAIR = f"{_QUANTIZE} d = DequantizeLinear <axis = 0> (q, s, z)"
IN_EVERY_PASS = {
    "convolution": f"{_PAIR} y = Conv (x, d)",
    "clip": f"{_QUANTIZE} c = Clip (q, low, high) d = DequantizeLinear <axis = 0> (c, s, z) y = Conv (x, d)",
    "transposed": f"{_PAIR} t = Transpose <perm = [1,0,2,3]> (d) y = Conv (x, t)",
    "transposed between": f"""{_QUANTIZE} t = Transpose <perm = [1,0,2,3]> (q)
        d = DequantizeLinear <axis = 1> (t, s, z) y = Conv (x, d)""",
    "reshaped": f"{_PAIR} r = Reshape (d, shape) f = Flatten (x) y = Gemm <transB = 1> (f, r)",
    "matrix": f"""{_PAIR} r = Reshape (d, shape) t = Transpose <perm = [1,0]> (r) f = Flatten (x)
        y = MatMul (f, t)""",
    "slope": f"m = MaxPool <kernel_shape = [3,3]> (x) {_PAIR} y = PRelu (m, d)",
}


@pytest.mark.parametrize("one_scale", [False, True])
@pytest.mark.parametrize("case", IN_EVERY_PASS)
def test_a_weight_that_is_quantised_in_every_pass(case: str, one_scale: bool, tmp_path: Path) -> None:
    path, new, nodes = tmp_path / "model.onnx", tmp_path / "new.onnx", IN_EVERY_PASS[case]
    scale = random.uniform(0.01, 0.03, () if one_scale else (4,)).astype(np.float32)
    shape = (4, 1, 1) if case == "slope" else (4, 4, 3, 3)
    levels = random.integers(-110, 110, shape) + random.choice([0, 0.3, 0.5], shape)  # ties too
    weights: Weights = {
        "w": np.asarray(levels * scale.reshape(-1, *[1] * (len(shape) - 1)), np.float32),
        "s": scale,
        "z": np.asarray(random.integers(-9, 9, scale.shape), np.int8),
        "low": np.array(-127, np.int8),
        "high": np.array(127, np.int8),
        "shape": np.array([4, 36]),
    }
    used = {name: value for name, value in weights.items() if re.search(rf"\b{name}[,)]", nodes)}
    model = load(path, f"net (float[N,4,3,3] x) => (float y) {{ {nodes} }}", used)
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(run(model, x)[0], runtime(path, x), rtol=1e-5, atol=1e-5)
    [(name, weight)] = model.named_parameters()
    assert np.isin(weight.detach(), used["w"]).all()  # not rounded: training goes on where it was
    write_back(model, new)
    assert new.read_bytes() == path.read_bytes()
    model(-x.abs()).sum().backward()
    assert weight.grad is not None
    assert weight.grad.count_nonzero() == weight.numel()
    weight.data += 0.1 * torch.randn(weight.shape)
    write_back(model, new)
    torch.testing.assert_close(run(model, x)[0], runtime(new, x), rtol=1e-5, atol=1e-5)
    assert dict(import_onnx(new).named_parameters())[name].equal(weight)


@pytest.mark.parametrize("norm", ["scale", "none"])
def test_such_a_weight_has_branches_too(norm: str, tmp_path: Path) -> None:
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    weights: Weights = {"w": (4, 4, 3, 3), "s": np.full(4, 0.02, np.float32), "z": np.zeros(4, np.int8)}
    model = load(path, f"net (float[N,4,9,9] x) => (float y) {{ {_PAIR} y = Conv (x, d) }}", weights)
    student, x = expand(model, norm=norm), torch.randn(2, 4, 9, 9)
    assert run(student, x)[0].equal(run(model, x)[0])
    write_back(fold(student), new)
    assert new.read_bytes() == path.read_bytes()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    write_back(fold(student), new)
    torch.testing.assert_close(run(fold(student), x)[0], runtime(new, x), rtol=1e-5, atol=1e-5)


# What else the file does with such a weight, so that it must stay what it is.
ELSEWHERE = {
    "the numbers": "p = Reshape (w, shape) e = ReduceSum (p)",
    "the integers": "i = Cast <to = 1> (q) e = ReduceSum (i)",
    "another scale": "o = DequantizeLinear (q, two) e = ReduceSum (o)",
    "another quantisation": "r = QuantizeLinear (w, two) o = DequantizeLinear (r, two) e = Conv (x, o)",
    "in another layout": """t = Transpose (q) o = DequantizeLinear <axis = 3> (t, s, z) p = Reshape (o, shape)
        e = ReduceSum (p)""",
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_a_weight_that_is_used_in_two_ways_is_not_trained(case: str, tmp_path: Path) -> None:
    path, nodes = tmp_path / "model.onnx", ELSEWHERE[case]
    text = f"net (float[N,4,3,3] x) => (float y, float e) {{ {_PAIR} y = Conv (x, d) {nodes} }}"
    weights: Weights = {
        "w": (4, 4, 3, 3),
        "s": np.full(4, 0.02, np.float32),
        "z": np.zeros(4, np.int8),
        "two": np.array(0.5, np.float32),
        "shape": np.array([-1]),
    }
    used = {name: value for name, value in weights.items() if re.search(rf"\b{name}[,)]", text)}
    model = load(path, text, used)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    x = torch.randn(1, 4, 3, 3)
    for found, wanted in zip(run(model, x), Session(path, optimised=False)([x]).values(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    write_back(model, tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("low", "trained"), [(-7, True), (-3, False)])
def test_stored_integers_stay_where_a_clip_puts_them(low: int, trained: bool, tmp_path: Path) -> None:
    """As Brevitas writes weights of few bits: int8, and a Clip before the DequantizeLinear."""
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    text = """net (float[N,4] x) => (float y) {
        c = Clip (w, low, high) d = DequantizeLinear (c, s) y = MatMul (x, d)
    }"""
    weights: Weights = {
        "w": random.integers(-7, 8, (4, 4)).astype(np.int8),
        "s": np.array(0.1, np.float32),
        "low": np.array(low, np.int8),
        "high": np.array(7, np.int8),
    }
    model, x = load(path, text, weights), torch.randn(2, 4)
    torch.testing.assert_close(run(model, x)[0], runtime(path, x))
    assert [parameter.requires_grad for parameter in model.parameters()] == [trained]
    if trained:
        next(model.parameters()).data += torch.randn(4, 4)
        write_back(model, new)
        torch.testing.assert_close(run(model, x)[0], runtime(new, x))
        assert np.abs(integers(new)["w"]).max() == 7


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 200, 300)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint4])
def test_both_in_one_are_the_two(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    scale, zero = torch.tensor([0.03]), torch.tensor(3)
    x = torch.randn(shape) * 5 + 0.015 * torch.randint(-9, 9, shape)
    x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def in_two(x: torch.Tensor) -> torch.Tensor:
        q = levels(x, scale, zero, dtype, scale.dtype, None, None)
        return dequantized(q, scale, zero, scale.dtype, None, None)

    results, gradients = [], []
    for function in (lambda x: fake_quantised(x, scale, zero, dtype), in_two):
        given = x.clone().requires_grad_()
        results.append(function(given))
        (results[-1] ** 2).sum().backward()
        gradients.append(given.grad)
    assert results[0].equal(results[1])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("other", "count"), [("s, z", 1), ("t, z", 0), ("s, u", 0)])
def test_a_pair_of_one_scale_is_one_call(other: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    text = f"net (float[N,4] x) => (float y) {{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, {other}) }}"
    weights: Weights = {"s": np.array(0.1, np.float32), "z": np.array(7, np.uint8)}
    others: Weights = {"t": np.array(0.2, np.float32), "u": np.array(9, np.uint8)}
    model = load(path, text, weights | {name: others[name] for name in "tu" if name in other.split(", ")})
    assert sum(node.target is fake_quantised for node in model.graph.nodes) == count
    x = torch.randn(5, 4)
    torch.testing.assert_close(run(model, x)[0], runtime(path, x))
