"""Imported models: their tensors by the names of the file, and other weights in them."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch
from onnx import TensorProto
from torch import fx, nn


def names(model: fx.GraphModule) -> dict[str, str]:
    """ONNX name -> torch name."""
    return {source.key.name: name for name, source in model.meta["onnx"].tensors.items()}


def parameter(model: fx.GraphModule, onnx_name: str) -> nn.Parameter:
    return model.get_parameter(names(model)[onnx_name])


def train(model: fx.GraphModule) -> fx.GraphModule:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model


def initializers(path: Path) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load(path, load_external_data=False).graph.initializer}
