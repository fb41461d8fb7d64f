"""Nets exported as a user does who knows nothing of this package."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from nets import images
from torch import Tensor, nn


class Two(nn.Module):
    """Two inputs of different sizes, two outputs, and a constant from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.scale = nn.Linear(5, 4)

    def forward(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        x = self.bn(self.conv(x))
        return x.relu().mean((2, 3)) / 3.0 + self.scale(code), x.sigmoid()


class Free(nn.Module):
    """Fully convolutional."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), activation(), nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def inputs_of(model: nn.Module) -> tuple[Tensor, ...]:
    return (images(), torch.randn(2, 5)) if isinstance(model, Two) else (images(),)


def deploy(
    model: nn.Module,
    path: Path,
    exporter: str = "torchscript",
    opset: int = 17,
    free: tuple[int, ...] = (0,),
    **more: Any,
) -> Path:
    """Export ``model`` as a user does who knows nothing of this package, with the axes ``free`` free."""
    inputs = inputs_of(model)
    names = [f"in {i}" for i in range(len(inputs))]
    axes = {axis: f"axis{axis}" for axis in free}
    if exporter == "dynamo":
        dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
        settings = {"dynamic_shapes": tuple(dims for _ in inputs), "dynamo": True, "external_data": False}
    else:
        settings = {"dynamic_axes": dict.fromkeys(names, axes), "dynamo": False}
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            deepcopy(model).eval(), inputs, path, opset_version=opset, input_names=names, **settings, **more
        )
    logging.disable(logging.NOTSET)
    return path
