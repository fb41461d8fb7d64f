"""What onnxruntime makes of several operators when it optimises a file: computed as it does, trained, and written."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx_text import SMALL, SMALL_WEIGHTS, Weights, load, run, write

from reparam_kit import check_import, expand, fold, inspect, save
from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx import import_onnx

HEADER = 'ir_version: 8, opset_import: ["" : 13, "com.microsoft" : 1]'
CONV: Weights = {"w": (4, 4, 3, 3), "b": (4,)}
TURNED = "t = Transpose <perm = [1,0,2]> (x) "
NORM: Weights = {"g": (6,), "h": (6,), "s": (3, 6), "k": (6,)}


def conv(settings: str, more: str = "") -> str:
    return f"y = com.microsoft.FusedConv <pads = [1,1,1,1], {settings}> (x, w, b{more})"


def gemm(settings: str) -> str:
    return f"y = com.microsoft.FusedGemm <transB = 1, alpha = 0.5, {settings}> (x, w, b)"


def product(settings: str) -> str:
    return f"y = com.microsoft.FusedMatMul <{settings}> (x, w)"


# Nodes, the shape of x, weights, and those among them that are trained.
CASES: dict[str, tuple[str, tuple[int, ...], Weights, str]] = {
    "FusedConv Relu": (conv('activation = "Relu"'), (4, 6, 6), CONV, "wb"),
    "FusedConv without": (conv("strides = [2,2]"), (4, 6, 6), CONV, "wb"),
    "FusedConv LeakyRelu": (conv('activation = "LeakyRelu", activation_params = [0.2]'), (4, 6, 6), CONV, "wb"),
    "FusedConv Clip": (conv('activation = "Clip", activation_params = [0.0, 1.0]'), (4, 6, 6), CONV, "wb"),
    "FusedConv HardSigmoid": (
        conv('activation = "HardSigmoid", activation_params = [0.2, 0.4]'), (4, 6, 6), CONV, "wb",
    ),
    "FusedConv Sigmoid": (conv('activation = "Sigmoid"'), (4, 6, 6), CONV, "wb"),
    "FusedConv Tanh, same": (
        'y = com.microsoft.FusedConv <auto_pad = "SAME_UPPER", kernel_shape = [3,3], activation = "Tanh"> (x, w, b)',
        (4, 6, 6), CONV, "wb",
    ),
    "FusedConv with a sum": (conv('activation = "Relu"', ", x"), (4, 6, 6), CONV, "wb"),
    "FusedConv in groups": (
        'y = com.microsoft.FusedConv <group = 4, activation = "Relu"> (x, w)', (4, 6, 6), {"w": (4, 1, 3, 3)}, "w",
    ),
    "FusedGemm Relu": (gemm('activation = "Relu"'), (6,), {"w": (5, 6), "b": (5,)}, "wb"),
    "FusedGemm LeakyRelu": (
        gemm('activation = "LeakyRelu", activation_alpha = 0.3'), (6,), {"w": (5, 6), "b": (5,)}, "wb",
    ),
    "FusedGemm HardSigmoid": (
        gemm('activation = "HardSigmoid", activation_alpha = 0.3, activation_beta = 0.4'),
        (6,), {"w": (5, 6), "b": (5,)}, "wb",
    ),
    "FusedGemm Tanh": (
        'y = com.microsoft.FusedGemm <activation = "Tanh"> (x, w, b)', (6,), {"w": (6, 5), "b": (5,)}, "wb",
    ),
    "FusedMatMul": (product("alpha = 0.25"), (3, 6), {"w": (6, 5)}, "w"),
    "FusedMatMul transposed": (product("transB = 1"), (3, 6), {"w": (5, 6)}, "w"),
    "FusedMatMul of two": (
        "y = com.microsoft.FusedMatMul <transA = 1, alpha = 2.0> (x, x)", (3, 6), {}, "",
    ),
    "FusedMatMul by batch": (
        TURNED + "y = com.microsoft.FusedMatMul <transBatchA = 1, transBatchB = 1, transB = 1> (t, t)",
        (3, 6), {}, "",
    ),
    "FusedMatMul by batch, transposed": (
        TURNED + "y = com.microsoft.FusedMatMul <transBatchA = 1, transA = 1, transBatchB = 1> (t, t)",
        (3, 6), {}, "",
    ),
    "Gelu": ("y = com.microsoft.Gelu (x)", (3, 6), {}, ""),
    "BiasGelu": ("y = com.microsoft.BiasGelu (x, k)", (3, 6), {"k": (6,)}, "k"),
    "FastGelu": ("y = com.microsoft.FastGelu (x)", (3, 6), {}, ""),
    "FastGelu with a bias": ("y = com.microsoft.FastGelu (x, k)", (3, 6), {"k": (6,)}, "k"),
    "QuickGelu": ("y = com.microsoft.QuickGelu (x)", (3, 6), {}, ""),
    "QuickGelu, SiLU": ("y = com.microsoft.QuickGelu <alpha = 1.0> (x)", (3, 6), {}, ""),
    "LayerNormalization": ("y = LayerNormalization (x, g, h)", (3, 6), NORM, "gh"),
    "LayerNormalization of two": (
        "y = LayerNormalization <axis = -2, epsilon = 0.1> (x, s, s)", (3, 6), NORM, "s",
    ),
    "SimplifiedLayerNormalization": ("y = SimplifiedLayerNormalization <epsilon = 0.1> (x, g)", (3, 6), NORM, "g"),
    "SkipLayerNormalization": ("y = com.microsoft.SkipLayerNormalization (x, x, g, h)", (3, 6), NORM, "gh"),
    "SkipLayerNormalization with a bias": (
        "y = com.microsoft.SkipLayerNormalization <epsilon = 0.1> (x, x, g, , k)", (3, 6), NORM, "gk",
    ),
    "SkipLayerNormalization and its sum": (
        "n, , , t = com.microsoft.SkipLayerNormalization (x, x, g, h, k) y = Add (n, t)", (3, 6), NORM, "ghk",
    ),
    "SkipSimplifiedLayerNormalization": (
        "n, , , t = com.microsoft.SkipSimplifiedLayerNormalization (x, x, g, k) y = Add (n, t)", (3, 6), NORM, "gk",
    ),
}  # fmt: skip


@pytest.mark.parametrize("batch", ["N", "2"])
@pytest.mark.parametrize("case", CASES)
def test_a_fused_operator_is_its_parts(case: str, batch: str, tmp_path: Path) -> None:
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    nodes, shape, weights, trained = CASES[case]
    text = f"net (float[{batch},{','.join(map(str, shape))}] x) => (float y) {{ {nodes} }}"
    used = {name: value for name, value in weights.items() if f" {name}" in nodes}
    model = load(path, text, used, HEADER)
    x = torch.randn(2, *shape)
    expected = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})[0]
    torch.testing.assert_close(run(model, x)[0], torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    assert check_import(model, x) is None
    save(model, new)
    assert new.read_bytes() == path.read_bytes()

    x.requires_grad_()
    model(x).square().sum().backward()
    found = {
        model.meta["onnx"].tensors[name].key.name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }
    assert found == set(trained)
    assert x.grad is not None
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
def test_a_file_that_onnxruntime_optimised(level: str, tmp_path: Path) -> None:
    path, optimised, new = (tmp_path / f"{name}.onnx" for name in ("model", "optimised", "new"))
    write(path, SMALL, SMALL_WEIGHTS)
    optimise(path, optimised, level)
    model, x = import_onnx(optimised), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(run(model, x)[0], run(import_onnx(path), x)[0], rtol=1e-4, atol=1e-5)
    assert check_import(model, x) is None
    save(fold(expand(model)), new)
    assert new.read_bytes() == optimised.read_bytes()
    assert [site.reason is None for site in inspect(model) if site.kind == "Conv2d"] == [True]


def test_a_file_for_one_processor_says_so(tmp_path: Path) -> None:
    path, optimised = tmp_path / "model.onnx", tmp_path / "optimised.onnx"
    write(path, "net (float[1,16,8,8] x) => (float y) { y = Conv (x, w) }", {"w": (16, 16, 3, 3)})
    optimise(path, optimised, "ALL")
    domains = {node.domain for node in onnx.load(optimised).graph.node}
    if "com.microsoft.nchwc" not in domains:
        pytest.skip("onnxruntime has no layout of its own for this processor")
    with pytest.raises(
        UnsupportedError, match=r"'com.microsoft.nchwc' .* one kind of processor.*ORT_ENABLE_EXTENDED"
    ):
        import_onnx(optimised)


def optimise(path: Path, to: Path, level: str) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(to)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
