"""Pools. What torch's layers cannot express is padded first, or computed as a sum over a count."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.levels import picks
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.ops.window import (
    Window,
    explicit_padding,
    full_padding,
    innermost_first,
    padded,
    read_window,
)
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import first
from reparam_kit.onnx.importer.values import Value

_LAYERS = {
    "MaxPool": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "AveragePool": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    "GlobalMaxPool": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    "GlobalAveragePool": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
}


@operator("GlobalMaxPool", "GlobalAveragePool")
def global_pool(op: Op) -> Value:
    """Take x [N, C, *spatial] -> [N, C, 1, ...]."""
    return op.layer(_layer_type(op, op.rank(0) - 2)(1), op[0])


@operator("MaxPool")
def max_pool(op: Op) -> Value:
    """Pool; ``storage_order`` is only about the indices, which are not supported as an output."""
    op.attr("storage_order")
    window, x = read_window(op, op.attr("kernel_shape")), op[0]
    layer_type = _layer_type(op, len(window.kernel))
    fits = window.symmetric and all(2 * p <= r for p, r in zip(window.before, window.reach, strict=True))
    if not fits:
        x = op.call(padded, x, window, float("-inf"))
    padding = window.before if fits else 0
    layer = layer_type(window.kernel, window.stride, padding, window.dilation, ceil_mode=fits and window.ceil)
    return op.layer(layer, x)


@operator("AveragePool")
def average_pool(op: Op) -> Value:
    """Average; by default padding does not count in the average; torch's default is that it does."""
    window, include_pad = read_window(op, op.attr("kernel_shape")), op.flag("count_include_pad")
    layer_type = _layer_type(op, len(window.kernel))
    small = all(2 * p <= k for p, k in zip(window.before, window.kernel, strict=True))
    if window.symmetric and small and set(window.dilation) == {1}:
        return op.layer(
            layer_type(window.kernel, window.stride, window.before, window.ceil, include_pad), op[0]
        )
    return op.call(average, op[0], window, include_pad)


def _layer_type(op: Op, dims: int) -> type[nn.Module]:
    if not 1 <= dims <= 3:
        raise UnsupportedError(f"a pool over {dims} dimensions is not supported")
    return _LAYERS[op.type][dims - 1]


def average(x: Tensor, window: Window, include_pad: bool) -> Tensor:
    """Return the mean over each window of ``x`` [N, C, *spatial], with or without its explicit padding."""
    size = tuple(x.shape[2:])
    before, after = explicit_padding(size, window)
    _, full = full_padding(size, window)
    beyond = innermost_first((0,) * len(size), tuple(f - a for f, a in zip(full, after, strict=True)))
    counted = F.pad(x.new_ones(1, 1, *size), innermost_first(before, after), "constant", float(include_pad))
    return _sums(padded(x, window, 0.0), window) / _sums(F.pad(counted, beyond), window)


def _sums(x: Tensor, window: Window) -> Tensor:
    """Return the sum over each window. Not as a convolution, which would be found as one."""
    for dim, (reach, stride, step) in enumerate(
        zip(window.reach, window.stride, window.dilation, strict=True), start=2
    ):
        x = x.unfold(dim, reach, stride)[..., ::step].sum(-1)
    return x


rule(first, average, padded)
picks(padded)
