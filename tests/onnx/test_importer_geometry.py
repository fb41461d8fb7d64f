"""Paddings, strides, sizes and axes that the shipped cases leave out, against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from reparam_kit.onnx.importer import import_onnx

Arrays = Mapping[str, np.ndarray]
random = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return random.standard_normal(shape, dtype=np.float32)


def check(
    path: Path, op_type: str, attributes: dict[str, Any], size: Sequence[int], opset: int, inputs: Arrays
) -> None:
    node = helper.make_node(
        op_type, ["x", *(name if name[0] != "-" else "" for name in inputs)], ["y"], **attributes
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in inputs.items() if name[0] != "-"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    x = weights(2, *size)
    [expected] = onnxruntime.InferenceSession(path).run(None, {"x": x})
    imported = import_onnx(path)
    leaf = torch.from_numpy(x).requires_grad_()
    result = imported(leaf)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    result.sum().backward()
    assert leaf.grad is not None


CONV = {
    "symmetric": {"pads": [1, 2, 1, 2]},
    "asymmetric": {"pads": [0, 1, 2, 3]},
    "strided": {"pads": [1, 1, 1, 1], "strides": [2, 3]},
    "dilated": {"pads": [2, 2, 2, 2], "dilations": [2, 1]},
    "same upper": {"auto_pad": "SAME_UPPER"},
    "same lower": {"auto_pad": "SAME_LOWER"},
    "same upper, strided": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same lower, strided": {"auto_pad": "SAME_LOWER", "strides": [3, 2]},
    "valid": {"auto_pad": "VALID", "strides": [2, 1]},
}


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)], ids=str)
@pytest.mark.parametrize("attributes", CONV.values(), ids=CONV)
def test_conv(attributes: dict[str, Any], kernel: tuple[int, int], tmp_path: Path) -> None:
    inputs = {"w": weights(6, 2, *kernel), "b": weights(6)}
    check(tmp_path / "m.onnx", "Conv", {"group": 2, **attributes}, (4, 9, 10), 11, inputs)


TRANSPOSED = {
    "plain": {},
    "strided": {"strides": [2, 3]},
    "cropped": {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    "output padding": {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    "more before": {"strides": [2, 2], "pads": [2, 1, 0, 0]},
    "more after": {"strides": [2, 2], "pads": [0, 0, 2, 1]},
    "more before, padded": {"strides": [2, 2], "pads": [2, 0, 0, 0], "output_padding": [1, 1]},
    "dilated": {"dilations": [2, 1], "pads": [1, 0, 1, 0]},
    "same upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same lower": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    "output shape": {"output_shape": [10, 12], "strides": [2, 2]},
}


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4)], ids=str)
@pytest.mark.parametrize("attributes", TRANSPOSED.values(), ids=TRANSPOSED)
def test_conv_transpose(attributes: dict[str, Any], kernel: tuple[int, int], tmp_path: Path) -> None:
    inputs = {"w": weights(4, 3, *kernel), "b": weights(6)}
    check(tmp_path / "m.onnx", "ConvTranspose", {"group": 2, **attributes}, (4, 5, 6), 11, inputs)


POOL = {
    "plain": {},
    "strided": {"strides": [2, 2]},
    "padded": {"strides": [2, 2], "pads": [1, 1, 1, 1]},
    "ceil": {"strides": [2, 2], "ceil_mode": 1},
    "ceil, padded": {"strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    "ceil, asymmetric": {"strides": [2, 3], "pads": [0, 1, 1, 0], "ceil_mode": 1},
    "ceil, a last window in the padding": {"strides": [3, 3], "pads": [0, 0, 2, 2], "ceil_mode": 1},
    "asymmetric": {"strides": [2, 2], "pads": [0, 0, 1, 1]},
    "wide": {"pads": [2, 2, 2, 2]},
    "same upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same lower": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    "dilated": {"dilations": [2, 2]},
}


# The first onnxruntime that computes these right: older ones count a window's padding, or the windows, wrong.
RUNTIME = tuple(map(int, onnxruntime.__version__.split(".")[:2]))
RIGHT_SINCE = {
    ("ceil", "AveragePool with padding"): (1, 21),
    ("ceil, padded", "AveragePool with padding"): (1, 21),
    ("ceil, asymmetric", "AveragePool with padding"): (1, 21),
    ("ceil, a last window in the padding", "MaxPool"): (1, 21),
    ("ceil, a last window in the padding", "AveragePool"): (1, 21),
    ("ceil, a last window in the padding", "AveragePool with padding"): (1, 25),
    ("asymmetric", "AveragePool with padding"): (1, 25),
}


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool", "AveragePool with padding"])
@pytest.mark.parametrize("case", POOL)
def test_pool(case: str, op_type: str, tmp_path: Path) -> None:
    right_since = RIGHT_SINCE.get((case, op_type), RUNTIME)
    if right_since > RUNTIME:
        pytest.skip(f"onnxruntime computes this right since {right_since[0]}.{right_since[1]}")
    attributes = POOL[case]
    op_type, _, with_padding = op_type.partition(" ")
    if with_padding:
        attributes = {**attributes, "count_include_pad": 1}
    check(tmp_path / "m.onnx", op_type, {"kernel_shape": [3, 3], **attributes}, (3, 8, 9), 19, {})


@pytest.mark.parametrize("size", [(3, 9), (3, 6, 7), (3, 4, 5, 6)], ids=["1d", "2d", "3d"])
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalMaxPool"])
def test_dimensions(op_type: str, size: tuple[int, ...], tmp_path: Path) -> None:
    kernel = (3,) * (len(size) - 1)
    inputs = {"w": weights(3, 3, *kernel)} if op_type.startswith("Conv") else {}
    attributes = {"kernel_shape": kernel} if op_type in ("MaxPool", "AveragePool") else {}
    check(tmp_path / "m.onnx", op_type, attributes, size, 13, inputs)


RESIZE = [
    (mode, coordinates, nearest)
    for mode in ("nearest", "linear", "cubic")
    for coordinates in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
    for nearest in (
        ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil") if mode == "nearest" else ("floor",)
    )
]


@pytest.mark.parametrize("scales", [(2, 2), (1.5, 0.7), (0.5, 3)], ids=str)
@pytest.mark.parametrize(("mode", "coordinates", "nearest"), RESIZE)
def test_resize(
    mode: str, coordinates: str, nearest: str, scales: tuple[float, float], tmp_path: Path
) -> None:
    attributes = {"mode": mode, "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
    inputs = {"-": np.zeros(0), "scales": np.array([1, 1, *scales], np.float32)}
    check(tmp_path / "m.onnx", "Resize", attributes, (3, 7, 10), 13, inputs)


OLD_RESIZE = [
    ("Upsample", 9, (2, 2)),
    ("Upsample", 9, (1.5, 3)),
    ("Resize", 10, (1.5, 3)),
    ("Resize", 10, (0.5, 0.7)),
]


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("op_type", "opset", "scales"), OLD_RESIZE)
def test_old_resize(op_type: str, opset: int, scales: tuple[float, float], mode: str, tmp_path: Path) -> None:
    inputs = {"scales": np.array([1, 1, *scales], np.float32)}
    check(tmp_path / "m.onnx", op_type, {"mode": mode}, (3, 7, 10), opset, inputs)


def test_resize_to_a_size(tmp_path: Path) -> None:
    inputs = {"-": np.zeros(0), "-2": np.zeros(0), "sizes": np.array([2, 3, 13, 5])}
    check(tmp_path / "m.onnx", "Resize", {"mode": "linear"}, (3, 7, 10), 13, inputs)


OTHERS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int, Arrays]] = {
    "softmax over the rest": ("Softmax", {"axis": 1}, (3, 4, 5), 11, {}),
    "softmax of a vector": ("Softmax", {"axis": 1}, (7,), 9, {}),
    "log softmax": ("LogSoftmax", {"axis": 2}, (3, 4), 11, {}),
    "clip from 6": ("Clip", {"min": 0.0, "max": 6.0}, (3, 4), 7, {}),
    "clip open": ("Clip", {"max": 0.5}, (3, 4), 7, {}),
    "clip crossed": (
        "Clip",
        {},
        (3, 4),
        12,
        {"low": np.float32(1).reshape(()), "high": np.float32(0.5).reshape(())},
    ),
    "prelu per channel": ("PRelu", {}, (3, 4, 4), 9, {"slope": weights(3, 1, 1)}),
    "prelu per element": ("PRelu", {}, (3, 4, 4), 9, {"slope": weights(3, 4, 4)}),
    "prelu per column": ("PRelu", {}, (3, 4, 5), 9, {"slope": weights(5)}),
    "prelu of a vector": ("PRelu", {}, (5,), 9, {"slope": weights(5)}),
    "prelu with one slope": ("PRelu", {}, (3, 4, 5), 9, {"slope": weights(1)}),
    "gemm scaled": (
        "Gemm",
        {"alpha": 0.5, "beta": 2.0, "transB": 1},
        (5,),
        11,
        {"b": weights(4, 5), "c": weights(4)},
    ),
    "gemm scalar bias": ("Gemm", {}, (5,), 11, {"b": weights(5, 4), "c": weights(1)}),
    "matmul of a volume": ("MatMul", {}, (3, 5), 11, {"b": weights(5, 4)}),
    "matmul of many": ("MatMul", {}, (3, 2, 5), 11, {"b": weights(3, 5, 4)}),
    "batch norm of a matrix": (
        "BatchNormalization",
        {"epsilon": 0.1},
        (4,),
        9,
        {k: abs(weights(4)) for k in "sbmv"},
    ),
    "batch norm of a volume": (
        "BatchNormalization",
        {},
        (4, 2, 3, 4),
        9,
        {k: abs(weights(4)) for k in "sbmv"},
    ),
    "instance norm": ("InstanceNormalization", {}, (4, 5), 9, {"s": weights(4), "b": weights(4)}),
    "group norm": ("GroupNormalization", {"num_groups": 2}, (6, 5), 21, {k: weights(6) for k in "sb"}),
    "norm by group": ("GroupNormalization", {"num_groups": 2}, (6, 5), 18, {k: weights(2) for k in "sb"}),
    "local response norm": ("LRN", {"size": 3, "alpha": 0.1}, (6, 3, 3), 13, {}),
    "pad reflect": ("Pad", {"mode": "reflect"}, (3, 5, 6), 13, {"pads": np.array([0, 1, 2, 3, 0, 0, 1, 2])}),
    "pad edge, cut": ("Pad", {"mode": "edge"}, (3, 5, 6), 13, {"pads": np.array([0, 0, -2, 1, 0, 0, 1, -1])}),
    "pad constant": ("Pad", {"pads": [0, 0, 1, 2, 0, 0, 3, -1], "value": 2.0}, (3, 5, 6), 10, {}),
    "mean without axes": ("ReduceMean", {}, (3, 4), 11, {}),
    "mean over axes": ("ReduceMean", {"axes": [2, -1], "keepdims": 0}, (3, 4, 5), 13, {}),
    "mean over given axes": ("ReduceMean", {"keepdims": 0}, (3, 4, 5), 18, {"axes": np.array([-2, 3])}),
    "slice backwards": (
        "Slice",
        {},
        (5, 6),
        13,
        {
            "starts": np.array([-1, 4]),
            "ends": np.array([-9, 0]),
            "axes": np.array([1, 2]),
            "steps": np.array([-1, -2]),
        },
    ),
    "old slice": ("Slice", {"starts": [1, -3], "ends": [3, 99], "axes": [1, 2]}, (5, 6), 9, {}),
    "gather": ("Gather", {"axis": 2}, (5, 6), 13, {"i": np.array([[0, -1], [2, 2]])}),
    "gather of the first opset": ("GatherND", {}, (5, 6), 11, {"i": np.array([[1, -1], [0, 2]])}),
    "gather in rows": ("GatherND", {"batch_dims": 1}, (5, 6), 13, {"i": np.array([[[-1, 0]], [[1, 5]]])}),
    "transpose": ("Transpose", {}, (5, 6), 13, {}),
}


@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS)
def test_operator(case: tuple[str, dict[str, Any], tuple[int, ...], int, Arrays], tmp_path: Path) -> None:
    op_type, attributes, size, opset, inputs = case
    check(tmp_path / "m.onnx", op_type, attributes, size, opset, inputs)
