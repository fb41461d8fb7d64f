"""Sums, products, pools and functions of quantised values: to the bit what onnxruntime gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from integer_nodes import Arrays, assert_to_the_bit, levels, random, runtime, scale, write
from onnx_text import run

from reparam_kit.onnx import import_onnx

SHAPE = (3, 4, 7, 6)
VALUE = "x x_scale x_zero"
TWO = f"{VALUE} w w_scale w_zero"
RESULT = "y_scale y_zero"

# Operator, inputs, attributes.
UNARY: dict[str, tuple[str, dict[str, Any]]] = {
    "sigmoid": ("QLinearSigmoid", {}),
    "leaky": ("QLinearLeakyRelu", {"alpha": 0.2}),
    "leaky by default": ("QLinearLeakyRelu", {}),
    "softmax": ("QLinearSoftmax", {"opset": 13, "axis": -1}),
    "softmax of channels": ("QLinearSoftmax", {"opset": 13, "axis": 1}),
    "softmax of old": ("QLinearSoftmax", {"opset": 12, "axis": 1}),
    "mean of all": ("QLinearGlobalAveragePool", {"channels_last": 0}),
    "pool": ("QLinearAveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "pool of padded": ("QLinearAveragePool", {"kernel_shape": [3, 2], "pads": [1, 0, 2, 1]}),
    "pool with padding": (
        "QLinearAveragePool",
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1], "count_include_pad": 1},
    ),
    "pool beyond": ("QLinearAveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "pool of the same size": (
        "QLinearAveragePool",
        {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    ),
}
# Shape of the second, where it is stored.
BINARY: dict[str, tuple[int, ...] | None] = {
    "of two": None,
    "of all": SHAPE[1:],
    "of channels": (1, 4, 1, 1),
    "of one": (),
    "of rows": (6,),
}


def settings(dtype: type, result_scale: float, same: bool = False) -> Arrays:
    """Scales and zero points of two values and their result; the ``same`` for all, so that many lie between levels."""
    zeros = [levels(dtype) for _ in range(3)]
    return {
        "x_scale": np.float32(0.03) if same else scale(),
        "x_zero": zeros[0],
        "w_scale": np.float32(0.03) if same else scale(),
        "w_zero": zeros[0] if same else zeros[1],
        "y_scale": np.float32(0.03 if same else result_scale),
        "y_zero": zeros[0] if same else zeros[2],
    }


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("case", UNARY)
def test_of_one(tmp_path: Path, case: str, dtype: type, same: bool) -> None:
    operator, attributes = UNARY[case]
    stored = settings(dtype, 0.008, same)
    if "softmax" in case:
        stored = {**stored, "y_scale": np.float32(1 / 256), "y_zero": np.array(np.iinfo(dtype).min, dtype)}
    inputs = {"x": levels(dtype, *SHAPE)}
    path = write(tmp_path / "a.onnx", operator, inputs, stored, f"{VALUE} {RESULT}", dtype, **attributes)
    assert_to_the_bit(path, inputs)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_a_softmax_of_two_on_a_fine_scale(tmp_path: Path, dtype: type) -> None:
    """The powers that onnxruntime sums up are so large that their products with the scale are infinite."""
    stored = {**settings(dtype, 1 / 333), "y_zero": np.array(np.iinfo(dtype).min, dtype)}
    inputs, attributes = {"x": levels(dtype, 40, 2)}, {"opset": 13, "axis": -1}
    path = write(
        tmp_path / "a.onnx", "QLinearSoftmax", inputs, stored, f"{VALUE} {RESULT}", dtype, **attributes
    )
    assert_to_the_bit(path, inputs)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("case", BINARY)
@pytest.mark.parametrize("operator", ["QLinearAdd", "QLinearMul"])
def test_of_two(tmp_path: Path, operator: str, case: str, dtype: type, same: bool) -> None:
    stored, shape = settings(dtype, 0.06 if operator == "QLinearAdd" else 0.1, same), BINARY[case]
    inputs = {"x": levels(dtype, *SHAPE)}
    if shape is None:
        inputs["w"] = levels(dtype, *SHAPE)
    else:
        stored = {**stored, "w": levels(dtype, *shape)}
    path = write(tmp_path / "a.onnx", operator, inputs, stored, f"{TWO} {RESULT}", dtype)
    assert_to_the_bit(path, inputs)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_of_several(tmp_path: Path, dtype: type, same: bool) -> None:
    stored, inputs = settings(dtype, 0.04, same), {name: levels(dtype, *SHAPE) for name in "xw"}
    order = f"{RESULT} {TWO}"
    path = write(tmp_path / "a.onnx", "QLinearConcat", inputs, stored, order, dtype, axis=1)
    assert_to_the_bit(path, inputs)
    stored = {**stored, "which": random.random(SHAPE) < 0.5}
    path = write(tmp_path / "b.onnx", "QLinearWhere", inputs, stored, f"which {TWO} {RESULT}", dtype)
    assert_to_the_bit(path, inputs)


@pytest.mark.parametrize("case", UNARY)
def test_each_image_of_a_batch_that_is_freed(tmp_path: Path, case: str) -> None:
    operator, attributes = UNARY[case]
    stored, image = settings(np.uint8, 0.008), {"x": levels(np.uint8, 1, *SHAPE[1:])}
    order = f"{VALUE} {RESULT}"
    path = write(tmp_path / "a.onnx", operator, image, stored, order, np.uint8, batch=1, **attributes)
    images = levels(np.uint8, *SHAPE)
    expected = [runtime(path, {"x": x}) for x in np.split(images, len(images))]
    assert run(import_onnx(path), torch.from_numpy(images))[0].equal(torch.cat(expected))


@pytest.mark.parametrize("case", ["mean of all", "pool with padding"])
def test_channels_at_the_end(tmp_path: Path, case: str) -> None:
    operator, attributes = UNARY[case]
    stored, inputs = settings(np.uint8, 0.01), {"x": levels(np.uint8, 2, 5, 6, 3)}
    attributes = {**attributes, "channels_last": 1}
    path = write(tmp_path / "a.onnx", operator, inputs, stored, f"{VALUE} {RESULT}", np.uint8, **attributes)
    assert_to_the_bit(path, inputs)
