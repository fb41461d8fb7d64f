"""Small models written in ONNX's text form, run by torch and by onnxruntime."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from elsewhere import run_elsewhere, stays
from onnx import numpy_helper, parser
from torch import Tensor, fx

from reparam_kit.onnx.importer import import_onnx

HEADER = 'ir_version: 8, opset_import: ["" : 17]'
Weights = Mapping[str, "tuple[int, ...] | np.ndarray"]


# A net of every kind of weight.
SMALL = """net (float[N,3,8,8] x) => (float[N,5] y) {
    c = Conv <pads = [1,1,1,1]> (x, "conv.weight", "conv.bias")
    b = BatchNormalization (c, scale, shift, mean, var)
    p = PRelu (b, slope)
    s = Mul (p, gain)
    g = GlobalAveragePool (s)
    f = Flatten (g)
    m = MatMul (f, matrix)
    y = Gemm (m, "fc.weight", "fc.bias")
}"""
SMALL_WEIGHTS: Weights = {
    "conv.weight": (4, 3, 3, 3),
    "conv.bias": (4,),
    "scale": (4,),
    "shift": (4,),
    "mean": (4,),
    "var": np.full(4, 2, np.float32),
    "slope": (4, 1, 1),
    "gain": (1, 4, 1, 1),
    "matrix": (4, 6),
    "fc.weight": (6, 5),
    "fc.bias": (1, 5),
}


def write(path: Path, text: str, weights: Weights | None = None, header: str = HEADER) -> None:
    """A file from ONNX's text form, and initializers: arrays, or shapes of random float32."""
    model = parser.parse_model(f"<{header}> {text}")
    random = np.random.default_rng(0)
    for name, value in (weights or {}).items():
        array = value if isinstance(value, np.ndarray) else random.standard_normal(value).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    path.write_bytes(model.SerializeToString())


def load(path: Path, text: str, weights: Weights | None = None, header: str = HEADER) -> fx.GraphModule:
    write(path, text, weights, header)
    return import_onnx(path)


_SEEN = set[str]()  # what has been run elsewhere, where numbers make no difference


def run(model: fx.GraphModule, *inputs: Tensor) -> tuple[Tensor, ...]:
    """What the model gives; on a GPU it gives the same, as far as can be seen here."""
    results = _run(model, *inputs)
    if not (model.training or stays(model) or model.code in _SEEN):
        _SEEN.add(model.code)
        run_elsewhere(model, *inputs)
        if torch.cuda.is_available():
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                there = _run(copy.deepcopy(model).cuda(), *(x.cuda() for x in inputs))
            for result, found in zip(results, there, strict=True):
                torch.testing.assert_close(found.cpu(), result, rtol=1e-4, atol=1e-4, equal_nan=True)
    return results


def _run(model: fx.GraphModule, *inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        result = model(*inputs)
    return result if isinstance(result, tuple) else (result,)


def assert_as_runtime(model: fx.GraphModule, path: Path, *inputs: Tensor) -> None:
    session = onnxruntime.InferenceSession(path)
    feed = dict(zip((info.name for info in session.get_inputs()), (x.numpy() for x in inputs), strict=True))
    for result, expected in zip(run(model, *inputs), session.run(None, feed), strict=True):
        torch.testing.assert_close(result, torch.from_numpy(expected), rtol=1e-5, atol=1e-5)
