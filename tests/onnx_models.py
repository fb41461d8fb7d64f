"""Small ONNX models, with their weights stored in every way that the format allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from nets import nudged
from onnx import ModelProto, TensorProto, helper, parser

from reparam_kit.onnx import import_onnx, write_back

NET = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "maker", producer_version: "1.2", model_version: 3,
 doc_string: "a note", metadata_props: ["author": "someone", "input": "RGB"]>
net (FLOAT[BATCH, 3, 8, 8] x) => (FLOAT[BATCH, 5] y) {
    target = Constant <value = int64[2] {-1, 4}> ()
    wide = Conv <pads = [1, 1, 1, 1]> (x, conv_w, conv_b)
    kept = Relu (wide)
    pooled = GlobalAveragePool (kept)
    flat = Reshape (pooled, target)
    y = Gemm <transB = 1> (flat, fc_w, fc_b)
}
"""
SHAPES = {"conv_w": (4, 3, 3, 3), "conv_b": (4,), "fc_w": (5, 4), "fc_b": (5,)}

Store = Callable[[str, torch.Tensor], TensorProto]
Edit = Callable[[ModelProto], object]


def raw(data_type: int) -> Store:
    return lambda name, value: helper.make_tensor(
        name, data_type, value.shape, _bytes(value, data_type), raw=True
    )


def typed(data_type: int) -> Store:
    """In ``float_data``, ``double_data``, or ``int32_data`` for the half types."""

    def store(name: str, value: torch.Tensor) -> TensorProto:
        tensor = TensorProto(name=name, data_type=data_type, dims=value.shape)
        numbers = np.frombuffer(_bytes(value, data_type), _NUMPY[data_type]).tolist()
        {TensorProto.FLOAT: tensor.float_data, TensorProto.DOUBLE: tensor.double_data}.get(
            data_type, tensor.int32_data
        ).extend(numbers)
        return tensor

    return store


_TORCH = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
}
_NUMPY = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.uint16,
    TensorProto.BFLOAT16: np.uint16,
    TensorProto.DOUBLE: np.float64,
}


def _bytes(value: torch.Tensor, data_type: int) -> bytes:
    return value.to(_TORCH[data_type]).reshape(-1).view(torch.uint8).numpy().tobytes()


RAW = raw(TensorProto.FLOAT)


def net(
    store: Store = RAW,
    dtype: str = "float",
    batch: str = "n",
    constants: tuple[str, ...] = (),
) -> ModelProto:
    """The net above with random weights; those named in ``constants`` are in ``Constant`` nodes."""
    model = parser.parse_model(NET.replace("FLOAT", dtype).replace("BATCH", batch))
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
    tensors = {name: store(name, torch.randn(shape)) for name, shape in SHAPES.items()}
    model.graph.initializer.extend(tensors[name] for name in tensors if name not in constants)
    for name in constants:
        model.graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensors[name]))
    return model


def save(model: ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def save_external(
    model: ModelProto, path: Path, location: str = "weights.bin", *, one_file: bool = True
) -> Path:
    """With every tensor in files beside the model, whose offsets leave room between the tensors."""
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        location=location if one_file else None,
        size_threshold=0,
    )
    return path


def without_payloads(path: Path) -> bytes:
    """The file without the numbers of its float tensors and the names of its data files, written independently."""
    model = onnx.load(path, load_external_data=False)
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
    for tensor in [*model.graph.initializer, *constants]:
        if tensor.data_type in _TORCH:
            for field in ("raw_data", "float_data", "int32_data", "double_data"):
                tensor.ClearField(field)
        for entry in tensor.external_data:
            if entry.key in ("location", "checksum"):
                entry.value = ""
    return model.SerializeToString(deterministic=True)


def retrained(path: Path, new: Path) -> Path:
    """The file at ``path`` with every weight moved, written to ``new``."""
    write_back(nudged(import_onnx(path), 0.1), new)
    return new


def tensor(model: ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def edited(model: ModelProto, edit: Edit) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    edit(copy)
    return copy
