"""Nets as exporters other than torch's write them: import, identity, and expanded weights back in the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_models import without_payloads
from onnx_text import Weights, assert_as_runtime, load, run
from torch import nn

from reparam_kit.onnx import diff, write_back
from reparam_kit.onnx.importer import import_onnx
from reparam_kit.surgery import expand, fold

random = np.random.default_rng(0)


def positive(*shape: int) -> np.ndarray:
    return random.uniform(0.5, 1.5, shape).astype(np.float32)


def small(*shape: int) -> np.ndarray:
    return (0.3 * random.standard_normal(shape)).astype(np.float32)


# Name -> opset, input shape with the batch, text, weights, trainable tensors.
MAKERS: dict[str, tuple[int, str, str, Weights, set[str]]] = {
    # tf2onnx: NHWC in and out, Pad before a VALID convolution, BatchNorm as Mul and Add, ReduceMean, shapes from Shape.
    "tensorflow": (
        13,
        "N,8,8,3",
        """t = Transpose <perm = [0,3,1,2]> (x)
        p = Pad (t, pads)
        c = Conv <strides = [2,2], auto_pad = "VALID"> (p, "conv/kernel")
        m = Mul (c, "bn/gamma") b = Add (m, "bn/beta")
        r = Clip (b, zero, six)
        d = Conv <group = 4, auto_pad = "SAME_UPPER", strides = [2,2]> (r, "depthwise/kernel")
        l = LeakyRelu <alpha = 0.2> (d)
        n = Transpose <perm = [0,2,3,1]> (l)
        a = ReduceMean <axes = [1,2], keepdims = 0> (n)
        f = MatMul (a, "dense/kernel") g = Add (f, "dense/bias")
        s = Shape (g) i = Cast <to = 6> (s) k = Cast <to = 7> (i) q = Slice (k, first, one, first)
        u = Concat <axis = 0> (q, rest) y = Reshape (g, u)""",
        {
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            "conv/kernel": small(4, 3, 3, 3),
            "bn/gamma": positive(1, 4, 1, 1),
            "bn/beta": small(1, 4, 1, 1),
            "zero": np.array(0, np.float32),
            "six": np.array(6, np.float32),
            "depthwise/kernel": small(4, 1, 3, 3),
            "dense/kernel": small(4, 5),
            "dense/bias": small(5),
            "first": np.array([0]),
            "one": np.array([1]),
            "rest": np.array([-1]),
        },
        {"conv/kernel", "depthwise/kernel", "dense/kernel"},
    ),
    # MXNet: input normalised in the graph, fix_gamma (a scale of ones), slopes [C, 1, 1], Dropout, opset 8.
    "mxnet": (
        8,
        "1,3,8,8",
        """s = Sub (x, mean) n = Mul (s, std)
        c = Conv <kernel_shape = [3,3], pads = [1,1,1,1]> (n, conv0_weight)
        b = BatchNormalization <epsilon = 0.001, momentum = 0.9, spatial = 1>
            (c, bn0_gamma, bn0_beta, bn0_mean, bn0_var)
        p = PRelu (b, relu0_gamma)
        d = Conv <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2], group = 4> (p, conv1_weight, conv1_bias)
        q = PRelu (d, relu1_gamma)
        e = Add (q, q)
        o = Dropout <ratio = 0.4> (e)
        f = Flatten (o)
        g = Gemm <alpha = 1.0, beta = 1.0, transB = 1> (f, fc1_weight, fc1_bias)
        y = BatchNormalization <epsilon = 0.00002> (g, fc1_gamma, fc1_beta, fc1_mean, fc1_var)""",
        {
            "mean": np.array([0.5], np.float32),
            "std": np.array([2.0], np.float32),
            "conv0_weight": small(4, 3, 3, 3),
            "bn0_gamma": np.ones(4, np.float32),
            "bn0_beta": small(4),
            "bn0_mean": small(4),
            "bn0_var": positive(4),
            "relu0_gamma": positive(4, 1, 1),
            "conv1_weight": small(4, 1, 3, 3),
            "conv1_bias": small(4),
            "relu1_gamma": positive(4, 1, 1),
            "fc1_weight": small(5, 64),
            "fc1_bias": small(5),
            "fc1_gamma": np.ones(5, np.float32),
            "fc1_beta": small(5),
            "fc1_mean": small(5),
            "fc1_var": positive(5),
        },
        {
            *(f"conv{i}_weight" for i in (0, 1)),
            *(f"relu{i}_gamma" for i in (0, 1)),
            *("bn0_gamma", "bn0_beta", "conv1_bias", "fc1_weight", "fc1_bias", "fc1_gamma", "fc1_beta"),
        },
    ),
    # Paddle: a bias that is an Add, Hardswish and Hardsigmoid written out, shapes joined from Shape and Slice.
    "paddle": (
        11,
        "N,3,8,8",
        """c = Conv <pads = [1,1,1,1]> (x, w0) b = Add (c, b0)
        h = Add (b, three) k = Clip (h, zero, six) m = Mul (b, k) v = Div (m, six)
        g = GlobalAveragePool (v)
        e = Conv (g, w1) r = Relu (e) j = Conv (r, w2) s = HardSigmoid <alpha = 0.2, beta = 0.5> (j)
        z = Mul (v, s)
        p = GlobalAveragePool (z)
        d = Shape (p) n = Slice (d, first, one) t = Concat <axis = 0> (n, rest) f = Reshape (p, t)
        o = MatMul (f, w3) a = Add (o, b3) y = Softmax <axis = 1> (a)""",
        {
            "w0": small(4, 3, 3, 3),
            "b0": small(1, 4, 1, 1),
            "three": np.array([3], np.float32),
            "zero": np.array(0, np.float32),
            "six": np.array(6, np.float32),
            "w1": small(2, 4, 1, 1),
            "w2": small(4, 2, 1, 1),
            "first": np.array([0]),
            "one": np.array([1]),
            "rest": np.array([-1]),
            "w3": small(4, 5),
            "b3": small(5),
        },
        {"w0", "w1", "w2", "w3"},
    ),
    # keras2onnx: NHWC in, SAME_UPPER convolution, Elu, VALID pool, Dropout before a dense layer.
    "keras": (
        9,
        "N,8,8,3",
        """t = Transpose <perm = [0,3,1,2]> (x)
        c = Conv <auto_pad = "SAME_UPPER", kernel_shape = [3,3], strides = [2,2]> (t, W, B)
        b = BatchNormalization (c, gamma, beta, mean, var)
        e = Elu (b)
        p = MaxPool <kernel_shape = [2,2], strides = [2,2], auto_pad = "VALID"> (e)
        n = Transpose <perm = [0,2,3,1]> (p)
        f = Flatten (n)
        d = Dropout <ratio = 0.5> (f)
        g = MatMul (d, W1) a = Add (g, B1)
        y = Sigmoid (a)""",
        {
            "W": small(4, 3, 3, 3),
            "B": small(4),
            "gamma": positive(4),
            "beta": small(4),
            "mean": small(4),
            "var": positive(4),
            "W1": small(16, 5),
            "B1": small(5),
        },
        {"W", "B", "gamma", "beta", "W1"},
    ),
    # skl2onnx: a pipeline of scaling and a perceptron, on top of features.
    "scikit-learn": (
        15,
        "N,6",
        """s = Sub (x, mean) d = Div (s, scale)
        c = Cast <to = 1> (d)
        m = MatMul (c, coef) a = Add (m, intercept) r = Relu (a)
        n = MatMul (r, coef1) b = Add (n, intercept1)
        y = Softmax <axis = 1> (b)""",
        {
            "mean": small(6),
            "scale": positive(6),
            "coef": small(6, 4),
            "intercept": small(1, 4),
            "coef1": small(4, 3),
            "intercept1": small(1, 3),
        },
        {"coef", "coef1"},
    ),
}


@pytest.mark.parametrize("maker", MAKERS)
def test_a_net_of(maker: str, tmp_path: Path) -> None:
    opset, shape, nodes, weights, trainable = MAKERS[maker]
    path = tmp_path / "model.onnx"
    header = f'ir_version: 8, opset_import: ["" : {opset}], producer_name: "{maker}"'
    model = load(path, f"net (float[{shape}] x) => (float y) {{ {nodes} }}", weights, header)
    image = [int(size) for size in shape.split(",")[1:]]
    x = torch.randn(3, *image)
    for batch in (1,) if shape[0] == "1" else (1, 3):
        assert_as_runtime(model, path, x[:batch])
    rows = torch.cat([run(model, row)[0] for row in x.split(1)])
    torch.testing.assert_close(run(model, x)[0], rows, rtol=1e-5, atol=1e-5)

    sources = model.meta["onnx"].tensors
    assert {sources[name].key.name for name, p in model.named_parameters() if p.requires_grad} == trainable
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    write_back(import_onnx(path), tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()

    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return
    student = expand(import_onnx(path), "conv(k) + conv(1)")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) if parameter.requires_grad else 0)
    folded = fold(student)
    write_back(folded, tmp_path / "new.onnx")
    assert diff(path, tmp_path / "new.onnx").payloads
    assert without_payloads(tmp_path / "new.onnx") == without_payloads(path)
    assert_as_runtime(folded.eval(), tmp_path / "new.onnx", x[:1])
