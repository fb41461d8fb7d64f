"""Convolutions: layers where the weight is known, else calls.

A padding that differs before and after, or with the input's size, becomes a call before the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.nn import functional as F

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.example import ROWS
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.ops.window import Ints, Window, padded, read_window
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import first
from reparam_kit.onnx.importer.values import Constant, Value

Kinds: TypeAlias = "Mapping[int, tuple[Callable[..., nn.Module], Callable[..., Any]]]"

_CONV: Kinds = {1: (nn.Conv1d, F.conv1d), 2: (nn.Conv2d, F.conv2d), 3: (nn.Conv3d, F.conv3d)}
_TRANSPOSED = {
    1: (nn.ConvTranspose1d, F.conv_transpose1d),
    2: (nn.ConvTranspose2d, F.conv_transpose2d),
    3: (nn.ConvTranspose3d, F.conv_transpose3d),
}


@operator("Conv")
def conv(op: Op) -> Value:
    """Take x [N, in, *spatial], weight [out, in / group, *kernel], bias [out]."""
    weights = op.weights(weight=1, bias=2)
    given = () if weights is not None else (op.parameter(1), op.parameter(2))
    return convolved(op, op[0], op.shape(1), weights, given, _CONV)


def convolved(
    op: Op,
    x: Value,
    shape: Sequence[int | None] | None,
    weights: dict[str, Constant] | None,
    given: tuple[Value | None, ...],
    kinds: Kinds,
) -> Value:
    """Return the convolution of ``x`` that ``op`` describes: a layer with ``weights`` of that ``shape``, or else a call
    with those ``given``. ``kinds`` has layer and function by the number of dimensions.
    """
    out, group_in, *kernel = _known_shape(shape)
    window, groups = read_window(op, tuple(kernel)), op.attr("group") or 1
    if len(kernel) not in kinds:
        raise UnsupportedError(f"a convolution over {len(kernel)} dimensions is not supported")
    if not window.symmetric:
        x = op.call(padded, x, window, 0.0)
    padding = window.before if window.symmetric else (0,) * len(kernel)
    layer_type, function = kinds[len(kernel)]
    if weights is None:
        return op.call(function, x, *given, window.stride, padding, window.dilation, groups)
    layer = layer_type(
        group_in * groups,
        out,
        window.kernel,
        window.stride,
        padding,
        window.dilation,
        groups,
        bias="bias" in weights,
        device="meta",  # draws no random numbers for tensors that are replaced
    )
    return op.layer(layer, x, **weights)


@operator("ConvTranspose")
def conv_transpose(op: Op) -> Value:
    """Take x [N, in, *spatial], weight [in, out / group, *kernel], bias [out].

    ONNX removes ``pads`` from both ends of the full result and adds ``output_padding`` after it. torch can do so where
    both ends lose the same, but for an ``output_padding`` smaller than the stride; the rest is cropped.
    """
    channels, group_out, *kernel = _known_shape(op.shape(1))
    window, groups = read_window(op, tuple(kernel)), op.attr("group")
    if len(kernel) not in _TRANSPOSED:
        raise UnsupportedError(f"a transposed convolution over {len(kernel)} dimensions is not supported")
    padding, output_padding, crop = [], [], []
    for before, after, stride, dilation in zip(
        *_removed(op, window), window.stride, window.dilation, strict=True
    ):
        if 0 <= before - after < max(stride, dilation):
            pad, extra = before, before - after
        else:
            pad, extra = min(before, max(after, 0)), max(-after, 0)
        padding.append(pad)
        output_padding.append(extra)
        crop.append((before - pad, after - pad + extra))
    layer_type, function = _TRANSPOSED[len(kernel)]
    weights = op.weights(weight=1, bias=2)
    if weights is None:
        settings = (window.stride, tuple(padding), tuple(output_padding), groups, window.dilation)
        y = op.call(function, op[0], op.parameter(1), op.parameter(2), *settings)
    else:
        layer = layer_type(
            channels,
            group_out * groups,
            window.kernel,  # type: ignore[arg-type]
            window.stride,  # type: ignore[arg-type]
            tuple(padding),  # type: ignore[arg-type]
            tuple(output_padding),  # type: ignore[arg-type]
            groups,
            bias="bias" in weights,
            dilation=window.dilation,  # type: ignore[arg-type]
            device="meta",
        )
        y = op.layer(layer, op[0], **weights)
    return op.call(cropped, y, crop) if any(map(any, crop)) else y


def _known_shape(shape: Sequence[int | None] | None) -> list[int]:
    if shape is None or len(shape) < 3:
        raise UnsupportedError(
            "a weight of unknown shape, or of fewer than three dimensions, is not supported"
        )
    return [ROWS if size is None else size for size in shape]


def _removed(op: Op, window: Window) -> tuple[Ints, Ints]:
    """Return how much of the full result goes before and after; negative where ``output_padding`` adds to it."""
    stride, reach = window.stride, window.reach
    extra = op.attr("output_padding") or (0,) * len(reach)
    auto, shape = op.attr("auto_pad"), op.attr("output_shape")
    if shape is not None:
        size = op.sizes(0)[1:]
        full = [s * (n - 1) + r + e for s, n, r, e in zip(stride, size, reach, extra, strict=True)]
        total = [f - n for f, n in zip(full, shape[-len(reach) :], strict=True)]
    elif auto.startswith("SAME"):  # the result is stride times the input
        total = [r - s + e for r, s, e in zip(reach, stride, extra, strict=True)]
    else:
        return window.before, tuple(a - e for a, e in zip(window.after, extra, strict=True))
    small = [max(t, 0) // 2 for t in total]
    before = small if auto == "SAME_UPPER" else [max(t, 0) - s for t, s in zip(total, small, strict=True)]
    return tuple(before), tuple(t - b - e for t, b, e in zip(total, before, extra, strict=True))


def cropped(x: Tensor, crop: list[tuple[int, int]]) -> Tensor:
    """Return ``x`` without so many entries before and after in each spatial dimension."""
    for dim, (before, after) in enumerate(crop, start=2):
        x = x.narrow(dim, before, x.shape[dim] - before - after)
    return x


rule(first, cropped, *(function for kind in (_CONV, _TRANSPOSED) for _, function in kind.values()))
