"""Padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.example import check_count
from reparam_kit.onnx.importer.levels import picks
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.ops.window import innermost_first
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import along
from reparam_kit.onnx.importer.values import Value


@operator("Pad", since=2)
def pad(op: Op) -> Value:
    """Take x, pads (before each of ``axes``, then after each), value, axes."""
    mode, pads, value, axes = op.attr("mode"), op.setting("pads", 1), op.number("value", 2), op.numbers(3)
    pads, axes = _without_zeros(pads, axes)
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise UnsupportedError(f"mode = {mode!r} is not supported")
    if isinstance(value, fx.Node):
        raise UnsupportedError("a value that is computed at run time is not supported")
    if mode == "constant":
        return op.call(padded_with, op[0], pads, axes, 0 if value is None else value)
    return op.call(padded_from_inside, op[0], pads, axes, mode)


def _without_zeros(pads: Any, axes: Any) -> Any:
    """Without the axes that are not padded, where that is known: the others are done apart whatever they hold."""
    if not isinstance(pads, tuple) or isinstance(axes, fx.Node):
        return pads, axes
    half = len(pads) // 2
    axes = tuple(range(half)) if axes is None else axes
    kept = [i for i in range(half) if pads[i] or pads[half + i]]
    return tuple(pads[i] for i in kept) + tuple(pads[half + i] for i in kept), tuple(axes[i] for i in kept)


def padded_with(x: Tensor, pads: Sequence[int], axes: Sequence[int] | None, value: float) -> Tensor:
    """Return ``x`` with ``value`` around it; less than nothing cuts off."""
    before, after = [0] * x.dim(), [0] * x.dim()
    for axis, b, a in _by_axis(x, pads, axes):
        before[axis], after[axis] = b, a
    return F.pad(x, innermost_first(tuple(before), tuple(after)), "constant", value)


def padded_from_inside(x: Tensor, pads: Sequence[int], axes: Sequence[int] | None, mode: str) -> Tensor:
    """Return ``x`` continued by its own entries, as numpy's modes of the same names do. Any dimension can be padded."""
    for axis, before, after in _by_axis(x, pads, axes):
        check_count(before + after)
        index = np.arange(x.shape[axis])[max(0, -before) : x.shape[axis] + min(0, after)]
        index = np.pad(index, (max(0, before), max(0, after)), mode)  # type: ignore[call-overload]
        x = x.index_select(axis, torch.from_numpy(index).to(x.device))
    return x


def _by_axis(x: Tensor, pads: Sequence[int], axes: Sequence[int] | None) -> list[tuple[int, int, int]]:
    axes = range(x.dim()) if axes is None else axes
    return list(zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True))


rule(along(2), padded_with, padded_from_inside)
picks(padded_with, padded_from_inside)
