"""Files of one operator on integers, with random levels, scales and zero points."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx_text import run
from torch import Tensor, fx

from reparam_kit.onnx import import_onnx, write_back

Arrays = Mapping[str, NDArray[Any]]

random = np.random.default_rng(0)


def levels(dtype: type, *shape: int) -> NDArray[Any]:
    """Random ones, of all that the type has."""
    ends = np.iinfo(dtype)
    return np.asarray(random.integers(ends.min, ends.max, shape, endpoint=True).astype(dtype))


def scale(*shape: int, most: float = 0.05) -> NDArray[Any]:
    return np.asarray(random.uniform(most / 10, most, shape).astype(np.float32))


def write(
    path: Path,
    operator: str,
    inputs: Arrays,
    stored: Arrays,
    order: str,
    result: type = np.float32,
    batch: int | str = "N",
    **attributes: Any,
) -> Path:
    """A file of ``operator``, whose inputs stand in the ``order`` of their names, ``-`` for none."""
    own = operator in ("QLinearConv", "QLinearMatMul") or operator.endswith("Integer")
    domain = "" if own and "channels_last" not in attributes else "com.microsoft"
    names = ["" if name == "-" else name for name in order.split()]
    node = helper.make_node(operator, names, ["y"], name="node", domain=domain, **attributes)
    kind = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(n, kind(x.dtype), [batch, *x.shape[1:]]) for n, x in inputs.items()],
        [helper.make_tensor_value_info("y", kind(np.dtype(result)), None)],
        [numpy_helper.from_array(np.asarray(x), n) for n, x in stored.items() if n in names],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def runtime(path: Path, inputs: Mapping[str, NDArray[Any] | Tensor]) -> Tensor:
    """What onnxruntime gives, which is not to replace any operator."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options)
    [result] = session.run(None, {name: np.asarray(x) for name, x in inputs.items()})
    return torch.from_numpy(result)


def assert_to_the_bit(path: Path, inputs: Arrays) -> fx.GraphModule:
    """The file gives what onnxruntime makes of it, and is written back as it is."""
    model = import_onnx(path)
    [found] = run(model, *map(torch.from_numpy, inputs.values()))
    torch.testing.assert_close(found, runtime(path, inputs), rtol=0, atol=0)
    write_back(model, path.with_name("new.onnx"))
    assert path.with_name("new.onnx").read_bytes() == path.read_bytes()
    return model
