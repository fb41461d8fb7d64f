"""Convolutions and matrix products of integers: to the bit what onnxruntime gives, trained as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from integer_nodes import Arrays, assert_to_the_bit, levels, random, runtime, scale, write
from onnx_text import load, run
from torch import nn

from reparam_kit import expand, fold
from reparam_kit.onnx import import_onnx, write_back

# Of what goes in, and of the weight.
TYPES = [(np.uint8, np.uint8), (np.uint8, np.int8), (np.int8, np.int8)]

# Weight, image, attributes.
GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1x1": ((5, 3, 1, 1), (3, 7, 6), {}),
    "padded": ((4, 3, 3, 3), (3, 8, 7), {"pads": [1, 1, 1, 1]}),
    "padded on one side": ((4, 3, 3, 2), (3, 8, 7), {"pads": [0, 2, 1, 0], "strides": [2, 1]}),
    "depthwise": ((8, 1, 3, 3), (8, 9, 9), {"group": 8, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    "grouped and dilated": ((6, 2, 3, 3), (4, 11, 9), {"group": 2, "dilations": [2, 1]}),
    "same": ((4, 3, 3, 3), (3, 9, 8), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "valid": ((4, 3, 2, 3), (3, 9, 8), {"auto_pad": "VALID"}),
    "1d": ((4, 3, 5), (3, 19), {"pads": [1, 3], "strides": [3]}),
    "3d": ((4, 2, 2, 3, 2), (2, 5, 6, 5), {"pads": [1, 0, 0, 0, 1, 1]}),
}
CONV = "x x_scale x_zero w w_scale w_zero y_scale y_zero b"
PRODUCTS = {
    "QLinearMatMul": "x x_scale x_zero w w_scale w_zero y_scale y_zero",
    "MatMulInteger": "x w x_zero w_zero",
    "MatMulIntegerToFloat": "x w x_scale w_scale x_zero w_zero float",
    "QGemm": "x x_scale x_zero w w_scale w_zero b y_scale y_zero",
}


def settings(types: tuple[type, type], per_channel: bool, shape: tuple[int, ...], axis: int) -> Arrays:
    """A weight of that shape and all that goes with it, such that the results are spread over the levels."""
    count = (shape[axis],) if per_channel else ()
    w, w_scale = levels(types[1], *shape), scale(*count, most=0.02)
    zero = np.zeros((), types[1]) if types[1] is np.int8 else levels(types[1])
    sizes = np.abs(w.astype(np.float32) - zero).reshape(-1).max() * np.sqrt(w.size / shape[axis])
    return {
        "x_scale": np.float32(0.05),
        "x_zero": levels(types[0]),
        "w": w,
        "w_scale": w_scale,
        "w_zero": np.broadcast_to(zero, count),
        "y_scale": np.float32(0.05 * w_scale.max() * sizes),
        "y_zero": levels(types[0]),
        "b": random.integers(-5000, 5000, shape[axis]).astype(np.int32),
        "float": random.standard_normal(shape[axis]).astype(np.float32),
    }


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("types", TYPES)
def test_a_convolution(tmp_path: Path, types: tuple[type, type], per_channel: bool, geometry: str) -> None:
    shape, image, attributes = GEOMETRIES[geometry]
    stored, inputs = settings(types, per_channel, shape, 0), {"x": levels(types[0], 3, *image)}
    for order in (CONV, CONV.removesuffix(" b")):
        path = write(tmp_path / "a.onnx", "QLinearConv", inputs, stored, order, types[0], **attributes)
        assert_to_the_bit(path, inputs)
    order = "x w x_zero w_zero" if not per_channel else "x w x_zero"  # of the others onnxruntime has one only
    path = write(tmp_path / "b.onnx", "ConvInteger", inputs, stored, order, np.int32, **attributes)
    assert_to_the_bit(path, inputs)


BIASES = {
    "convolution": ("[N,3,6,6]", "QLinearConv (x, xs, xz, w, ws, wz, ys, yz, b)", (4, 3, 3, 3)),
    "product": ("[N,6]", "com.microsoft.QGemm (x, xs, xz, w, ws, wz, b, ys, yz)", (6, 4)),
}


@pytest.mark.parametrize("case", BIASES)
def test_a_bias_that_the_graph_computes(case: str, tmp_path: Path) -> None:
    sizes, node, shape = BIASES[case]
    known = settings((np.uint8, np.int8), False, shape, 0 if len(shape) == 4 else 1)
    short = {
        "x_scale": "xs",
        "x_zero": "xz",
        "w": "w",
        "w_scale": "ws",
        "w_zero": "wz",
        "y_scale": "ys",
        "y_zero": "yz",
    }
    weights = {name: np.asarray(known[key]) for key, name in short.items()}
    header = 'ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]'
    text = f"net (uint8{sizes} x, int32[4] a) => (uint8 y) {{ b = Add (a, a) y = {node} }}"
    model = load(tmp_path / "model.onnx", text, weights, header)
    image = (3, 6, 6) if case == "convolution" else (6,)
    inputs = {"x": levels(np.uint8, 2, *image), "a": random.integers(-5000, 5000, 4).astype(np.int32)}
    found = run(model, *map(torch.from_numpy, inputs.values()))[0]
    assert found.equal(runtime(tmp_path / "model.onnx", inputs))
    [weight] = model.parameters()
    assert weight.requires_grad


def test_channels_at_the_end(tmp_path: Path) -> None:
    shape, image, attributes = GEOMETRIES["depthwise"]
    stored = settings((np.uint8, np.int8), True, shape, 0)
    inputs = {"x": np.moveaxis(levels(np.uint8, 2, *image), 1, -1).copy()}
    attributes = {**attributes, "channels_last": 1}
    path = write(tmp_path / "a.onnx", "QLinearConv", inputs, stored, CONV, np.uint8, **attributes)
    assert_to_the_bit(path, inputs)


@pytest.mark.parametrize("operator", PRODUCTS)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("types", TYPES)
def test_a_product(tmp_path: Path, types: tuple[type, type], per_channel: bool, operator: str) -> None:
    stored, order = settings(types, per_channel, (19, 5), 1), PRODUCTS[operator]
    inputs = {"x": levels(types[0], 3, 19)}
    result = {"MatMulInteger": np.int32, "MatMulIntegerToFloat": np.float32}.get(operator, types[0])
    assert_to_the_bit(write(tmp_path / "a.onnx", operator, inputs, stored, order, result), inputs)
    if operator == "QGemm":
        flipped = {**stored, "w": np.ascontiguousarray(stored["w"].T)}
        attributes = {"transB": 1, "alpha": 0.5}
        path = write(tmp_path / "b.onnx", operator, inputs, flipped, order, result, **attributes)
        assert_to_the_bit(path, inputs)
        order = order.removesuffix(" y_scale y_zero")
        assert_to_the_bit(write(tmp_path / "c.onnx", operator, inputs, stored, order), inputs)
    else:
        inputs = {"x": levels(types[0], 2, 3, 19)}
        assert_to_the_bit(write(tmp_path / "b.onnx", operator, inputs, stored, order, result), inputs)


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("kind", ["all", "positive", "zero"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_levels_of_a_range_that_is_found_at_run_time(
    tmp_path: Path, dtype: type, kind: str, batch: int | str
) -> None:
    """Of each image, where the batch is freed."""
    x = random.standard_normal((1, 4, 19)).astype(np.float32) * {"all": 3, "positive": 1, "zero": 0}[kind]
    inputs = {"x": np.abs(x) if kind == "positive" else x}
    stored, order = settings((np.uint8, dtype), False, (19, 5), 1), "x w w_scale w_zero float"
    path = write(tmp_path / "a.onnx", "DynamicQuantizeMatMul", inputs, stored, order, batch=batch)
    model = assert_to_the_bit(path, inputs)
    if batch == 1:
        images = np.concatenate([inputs["x"], 2 * inputs["x"], inputs["x"] - 1])
        [found] = run(model, torch.from_numpy(images))
        expected = [runtime(path, {"x": image}) for image in np.split(images, 3)]
        assert found.equal(torch.cat(expected))


def test_sums_that_single_precision_cannot_hold(tmp_path: Path) -> None:
    stored = {**settings((np.uint8, np.int8), True, (2, 600, 3, 3), 0), "x_zero": np.uint8(0)}
    stored["w"] = np.where(random.random(stored["w"].shape) < 0.5, 127, 126).astype(np.int8)
    inputs = {"x": random.integers(200, 255, (2, 600, 5, 5), endpoint=True).astype(np.uint8)}
    path = write(tmp_path / "a.onnx", "ConvInteger", inputs, stored, "x w x_zero", np.int32)
    assert runtime(path, inputs).max() > 2**26
    assert_to_the_bit(path, inputs)


TRAINED = {
    "QLinearConv": ((8, 3, 3, 3), 0, (2, 3, 9, 8), CONV, {"pads": [1, 0, 1, 0]}),
    "ConvInteger": ((8, 3, 3, 3), 0, (2, 3, 9, 8), "x w x_zero", {"pads": [1, 0, 1, 0]}),
    "QGemm": ((19, 5), 1, (4, 19), PRODUCTS["QGemm"], {}),
    **{name: ((19, 5), 1, (2, 4, 19), PRODUCTS[name], {}) for name in PRODUCTS if name != "QGemm"},
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("operator", TRAINED)
def test_what_is_trained_is_what_is_written(
    tmp_path: Path, operator: str, per_channel: bool, train: bool
) -> None:
    shape, axis, x_shape, order, attributes = TRAINED[operator]
    stored = settings((np.uint8, np.int8), per_channel, shape, axis)
    inputs = {"x": levels(np.uint8, *x_shape)}
    result = {"QLinearConv": np.uint8, "QLinearMatMul": np.uint8, "QGemm": np.uint8}.get(operator, np.int32)
    result = np.float32 if operator == "MatMulIntegerToFloat" else result
    path = write(tmp_path / "a.onnx", operator, inputs, stored, order, result, **attributes)
    x = torch.from_numpy(inputs["x"])
    student = expand(import_onnx(path), include=["*"]).train(train)
    optimizer = torch.optim.SGD(student.parameters(), 1.0)
    # Before the integers of the result are rounded off: what a dequantisation behind them would let through.
    layer = next(module for module in student.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    layer.register_forward_hook(lambda *given: sums.append(given[2]))
    sums: list[torch.Tensor] = []
    student(x)
    (sums[0] * torch.randn(sums[0].shape)).sum().backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter.grad /= parameter.grad.abs().max().clamp_min(1e-9) / (
                    parameter.abs().max() / 9 + 0.01
                )
    optimizer.step()
    trained = fold(student).eval()
    write_back(trained, tmp_path / "new.onnx")
    written = runtime(tmp_path / "new.onnx", inputs)
    assert run(trained, x)[0].equal(written)
    assert run(student.eval(), x)[0].equal(written)
    assert run(import_onnx(tmp_path / "new.onnx"), x)[0].equal(written)
    assert not written.equal(runtime(path, inputs))
