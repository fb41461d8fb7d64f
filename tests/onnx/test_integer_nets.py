"""Whole nets as onnxruntime's quantisers write them with integer arithmetic, static and dynamic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from integer_nodes import random, runtime
from numpy.typing import NDArray
from onnx_text import Weights, run, write
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from reparam_kit import check_import, expand, fold
from reparam_kit.onnx import import_onnx, write_back

NET = """net (float[BATCH,3,12,12] x) => (float[BATCH,5] y) {
    a = Conv <pads = [1,1,1,1]> (x, "first.weight", b1)
    r = Relu (a)
    d = Conv <group = 8, pads = [0,0,1,1], strides = [2,2]> (r, w2, b2)
    l = LeakyRelu <alpha = 0.1> (d)
    e = Conv (l, w3)
    s = Add (e, l)
    g = GlobalAveragePool (s)
    i = Sigmoid (g)
    m = Mul (s, i)
    p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (m)
    q = AveragePool <kernel_shape = [2,2], strides = [2,2]> (s)
    c = Concat <axis = 1> (p, q)
    f = Flatten (c)
    h = MatMul (f, w4)
    y = Gemm <transB = 1> (h, w5, b5)
}"""
WEIGHTS: Weights = {
    "first.weight": (8, 3, 3, 3),
    "b1": (8,),
    "w2": (8, 1, 3, 3),
    "b2": (8,),
    "w3": (8, 8, 1, 1),
    "w4": (144, 6),
    "w5": (5, 6),
    "b5": (5,),
}


class Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left: Iterator[dict[str, NDArray[Any]]] = iter([{"x": image()} for _ in range(4)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.left, None)


def image(count: int = 1) -> NDArray[Any]:
    return random.standard_normal((count, 3, 12, 12)).astype(np.float32)


SIGNED, UNSIGNED = QuantType.QInt8, QuantType.QUInt8
STATIC: dict[str, dict[str, Any]] = {
    "uint8": {"activation_type": UNSIGNED, "weight_type": UNSIGNED},
    "symmetric": {
        "activation_type": SIGNED,
        "weight_type": SIGNED,
        "extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True},
    },
    "per channel": {"activation_type": UNSIGNED, "weight_type": SIGNED, "per_channel": True},
    "of fewer levels": {"activation_type": UNSIGNED, "weight_type": SIGNED, "reduce_range": True},
    "in part": {"op_types_to_quantize": ["Conv", "MatMul"]},
}
DYNAMIC: dict[str, dict[str, Any]] = {
    "dynamic": {"weight_type": SIGNED},
    "dynamic, per channel": {"weight_type": SIGNED, "per_channel": True},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nets")
    for batch in ("N", "1"):
        weights = {
            name: (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
            for name, shape in WEIGHTS.items()
            if isinstance(shape, tuple)
        }
        write(folder / f"{batch}.onnx", NET.replace("BATCH", batch), weights)
    return folder


def quantised(case: str, batch: str, folder: Path) -> Path:
    source, path = folder / f"{batch}.onnx", folder / f"{case} {batch}.onnx"
    if case in STATIC:
        quantize_static(source, path, Images(), quant_format=QuantFormat.QOperator, **STATIC[case])
    else:
        quantize_dynamic(source, path, **DYNAMIC[case])
    return path


@pytest.mark.parametrize(
    ("case", "batch"), [*((case, "1") for case in [*STATIC, *DYNAMIC]), ("per channel", "N")]
)
def test_a_net_is_trained_as_it_is_written(case: str, batch: str, folder: Path) -> None:
    path = quantised(case, batch, folder)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert operators & ({"QLinearConv"} if case in STATIC else {"ConvInteger", "MatMulInteger"})
    model, x = import_onnx(path), torch.from_numpy(image(2))
    for one in x.split(1):
        torch.testing.assert_close(run(model, one)[0], runtime(path, {"x": one}), rtol=1e-5, atol=1e-5)
    assert check_import(model, x) is None
    write_back(model, folder / "same.onnx")
    assert (folder / "same.onnx").read_bytes() == path.read_bytes()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) >= 5, trained
    assert "first.weight" in trained  # the name of the float net's layer

    student = expand(model, include=["*"]).train()
    optimizer = torch.optim.AdamW(student.parameters(), 0.02)
    for _ in range(2):
        optimizer.zero_grad()
        student(x).square().mean().backward()
        gradients = [p.grad for p in student.parameters() if p.requires_grad]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
        optimizer.step()
    alive = sum(bool(gradient.any()) for gradient in gradients if gradient is not None)
    assert alive > len(gradients) * 0.8
    result = fold(student).eval()
    write_back(result, folder / "new.onnx")
    for one in x.split(1):
        written = runtime(folder / "new.onnx", {"x": one})
        torch.testing.assert_close(run(result, one)[0], written, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(written, runtime(path, {"x": one}))
    assert check_import(result, x) is None
