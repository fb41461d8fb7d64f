"""A convolution whose weights a file stores as integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from onnx_text import Weights
from torch import Tensor, fx, nn

random = np.random.default_rng(0)

CONV = """net (float[N,3,8,8] x) => (float[N,4,6,6] y) {
    xq = QuantizeLinear (x, xs, xz)
    xd = DequantizeLinear (xq, xs, xz)
    wd = DequantizeLinear <axis = 0> (w, ws, wz)
    bd = DequantizeLinear <axis = 0> (b, bs)
    c = Conv (xd, wd, bd)
    r = Relu (c)
    yq = QuantizeLinear (r, xs, xz)
    y = DequantizeLinear (yq, xs, xz)
}"""


def settings_of(per_channel: bool, dtype: type) -> Weights:
    """An activation of 8 bits, a weight of ``dtype``, a bias of 32."""
    count = 4 if per_channel else 1
    scale = random.uniform(0.01, 0.02, count).astype(np.float32)
    zero = np.zeros(count, dtype) if dtype is np.int8 else random.integers(100, 150, count).astype(dtype)
    shape: tuple[int, ...] = (count,) if per_channel else ()
    info = np.iinfo(dtype)
    return {
        "xs": np.array(0.03, np.float32),
        "xz": np.array(120, np.uint8),
        "w": random.integers(info.min, info.max, (4, 3, 3, 3), endpoint=True).astype(dtype),
        "ws": scale.reshape(shape),
        "wz": zero.reshape(shape),
        "b": random.integers(-3000, 3000, 4).astype(np.int32),
        "bs": (scale * np.float32(0.03)).reshape(shape),
    }


def runtime(path: Path, x: Tensor) -> Tensor:
    """Unoptimised, for onnxruntime would otherwise compute with the integers themselves."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    [result] = onnxruntime.InferenceSession(path, options).run(None, {"x": x.numpy()})
    return torch.from_numpy(result)


def integers(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def conv_of(model: fx.GraphModule) -> nn.Conv2d:
    [conv] = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    return conv
