"""A file of the usual size is imported in seconds of one core, however small its layers are."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import reparam_kit as rk


def write(path: Path, layers: int, channels: int) -> None:
    """Write a chain of residual layers of 3x3."""
    weight = np.full((channels, channels, 3, 3), 0.01, np.float32)
    nodes, weights, last = [], [], "image"
    for i in range(layers):
        weights.append(numpy_helper.from_array(weight, f"weight{i}"))
        nodes.append(helper.make_node("Conv", [last, f"weight{i}"], [f"conv{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"conv{i}"], [f"relu{i}"]))
        nodes.append(helper.make_node("Add", [f"relu{i}", last], [f"sum{i}"]))
        last = f"sum{i}"
    image, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, 8, 8])
        for name in ("image", last)
    )
    graph = helper.make_graph(nodes, "net", [image], [out], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def test_25_megabytes_are_imported_in_less_than_5_seconds(tmp_path: Path) -> None:
    write(tmp_path / "net.onnx", 170, 64)  # 510 nodes
    assert (tmp_path / "net.onnx").stat().st_size > 25e6
    start = time.process_time()  # of this process: other work of the machine does not count
    model = rk.load(tmp_path / "net.onnx")
    assert time.process_time() - start < 5
    assert sum(parameter.numel() for parameter in model.parameters()) == 170 * 64 * 64 * 9
