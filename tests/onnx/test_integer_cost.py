"""What a training step of a quantised net moves through memory, against that of its float net.

On a CPU that, and not arithmetic, is what quantisation costs; ``benchmarks.int8_cost`` has the seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_text import Weights, write
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reparam_kit.onnx import import_onnx

NET = """net (float[N,3,96,96] x) => (float[N,8,96,96] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1, b1)
    r = Relu (a)
    d = Conv <group = 8, pads = [1,1,1,1]> (r, w2, b2)
    l = Relu (d)
    e = Conv (l, w3, b3)
    s = Add (e, r)
    y = Conv (s, w4, b4)
}"""
WEIGHTS: Weights = {
    **{"w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1), "w4": (8, 8, 1, 1)},
    **{f"b{i}": (8,) for i in range(1, 5)},
}
IMAGES, LARGE = 16, 8 * 96 * 96 * 16  # entries of an activation: larger than what is done at once
COST = {"Q/DQ": 2.0, "QOperator": 1.7, "dynamic": 1.5}


class Counted(TorchDispatchMode):
    """Counts the bytes of all tensors as large as an activation that are newly made; a mask has a quarter of them."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        old = {x.untyped_storage().data_ptr() for x in _tensors([args, kwargs or {}])}
        for new in _tensors(result):
            if new.numel() >= LARGE and new.untyped_storage().data_ptr() not in old:
                self.bytes += new.nbytes
        return result


def _tensors(given: Any) -> list[Tensor]:
    if isinstance(given, Tensor):
        return [given]
    items = given.values() if isinstance(given, dict) else given if isinstance(given, (list, tuple)) else ()
    return [tensor for item in items for tensor in _tensors(item)]


class Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left = iter([{"x": np.random.default_rng(0).standard_normal((1, 3, 96, 96)).astype(np.float32)}])

    def get_next(self) -> Any:
        return next(self.left, None)


def moved(path: Path) -> int:
    """Bytes of a step on images that take no gradient."""
    model = import_onnx(path).train()
    with Counted() as counted:
        model(torch.randn(IMAGES, 3, 96, 96)).square().mean().backward()
    return counted.bytes


@pytest.mark.parametrize("form", COST)
def test_a_step_moves_little_more_than_a_float_one(form: str, tmp_path: Path) -> None:
    source, target = tmp_path / "float.onnx", tmp_path / "quantised.onnx"
    write(source, NET, WEIGHTS)
    if form == "dynamic":
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
    else:
        kind = QuantFormat.QDQ if form == "Q/DQ" else QuantFormat.QOperator
        settings = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(source, target, Images(), quant_format=kind, **settings)
    assert moved(target) <= COST[form] * moved(source), moved(target) / moved(source)
