"""The importer behind ONNX's own interface for things that run models, so that the tests of ONNX can judge it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper
from onnx.backend import base
from torch import Tensor, fx

from reparam_kit.onnx.importer.load import import_file
from reparam_kit.onnx.importer.values import DTYPES, dtype_of, to_tensor
from reparam_kit.onnx.weights import OnnxFile, parse_onnx

_TYPES = {dtype: onnx_type for onnx_type, dtype in DTYPES.items()}


class Backend(base.Backend):
    """``Backend.prepare(model).run(inputs)``: numpy arrays in and out, computed by torch."""

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        """Import a model that has no external data.

        Raises:
            InputError: the model contradicts itself.
            UnsupportedError: it has an operator that cannot be imported.
        """
        payload = model.SerializeToString()
        imported = import_file(OnnxFile(parse_onnx(payload, "the ONNX model"), {}), payload)
        types = [dtype_of(output.type.tensor_type.elem_type) for output in model.graph.output]
        return Prepared(imported.to(device.lower()), device.lower(), types)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU" or (device.startswith("CUDA") and torch.cuda.is_available())


class Prepared(base.BackendRep):
    """An imported model on its device."""

    def __init__(self, model: fx.GraphModule, device: str, types: Sequence[torch.dtype]) -> None:
        self.model = model
        self._device = device
        self._types = types

    def run(self, inputs: Sequence[NDArray[Any]], **kwargs: Any) -> tuple[NDArray[Any], ...]:
        """Return the graph's outputs for its inputs, both in order."""
        tensors = (
            to_tensor(array, helper.np_dtype_to_tensor_dtype(array.dtype))
            for array in map(np.asarray, inputs)
        )
        with torch.no_grad():
            result = self.model(*(tensor.to(self._device) for tensor in tensors))
        results = result if isinstance(result, tuple) else (result,)
        return tuple(map(_to_array, results, self._types))


def _to_array(tensor: Tensor, dtype: torch.dtype) -> NDArray[Any]:
    """Return ``tensor`` in the type that the graph says, if it is a half type, which torch holds in a wider one."""
    tensor = tensor.cpu()
    if dtype.is_floating_point:
        tensor = tensor.to(dtype)
    if tensor.dtype is torch.bfloat16:  # torch and numpy know this type by different names
        return tensor.view(torch.int16).numpy().view(helper.tensor_dtype_to_np_dtype(_TYPES[tensor.dtype]))
    return tensor.numpy()
