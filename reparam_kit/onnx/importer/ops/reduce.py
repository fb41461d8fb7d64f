"""Reductions over some dimensions, or over all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.values import Value

_REDUCE: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {}


def _register(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> None:
    ...
