"""Convolutions. A padding that differs before and after, or with the input's size, becomes a call before the layer."""

from __future__ import annotations

from torch import Tensor, nn

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.ops.window import Ints, Window, padded, read_window
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.values import Value

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@operator("Conv")
def conv(op: Op) -> Value:
    """x [N, in, *spatial], weight [out, in / group, *kernel], bias [out]."""
    out, group_in, *kernel = op.weight(1).tensor.shape
    window, groups, x = read_window(op, tuple(kernel)), op.attr("group"), op[0]
    if len(kernel) not in _CONV:
        raise UnsupportedError(f"a convolution over {len(kernel)} dimensions is not supported")
    if not window.symmetric:
        x = op.call(padded, x, window, 0.0)
    layer = _CONV[len(kernel)](
        group_in * groups,
        out,
        window.kernel,  # type: ignore[arg-type]
        window.stride,  # type: ignore[arg-type]
        window.before if window.symmetric else 0,  # type: ignore[arg-type]
        window.dilation,  # type: ignore[arg-type]
        groups,
        bias=op.get(2) is not None,
        device="meta",  # draws no random numbers for tensors that are replaced
    )
    return op.layer(layer, x, **op.weights(weight=1, bias=2))


@operator("ConvTranspose")
def conv_transpose(op: Op) -> Value:
    """x [N, in, *spatial], weight [in, out / group, *kernel], bias [out].

    ONNX removes ``pads`` from both ends of the full result and adds ``output_padding`` after it. torch can do so where
    both ends lose the same, but for an ``output_padding`` smaller than the stride; the rest is cropped.
    """
    channels, group_out, *kernel = op.weight(1).tensor.shape
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
    layer = _TRANSPOSED[len(kernel)](
        channels,
        group_out * groups,
        window.kernel,  # type: ignore[arg-type]
        window.stride,  # type: ignore[arg-type]
        tuple(padding),  # type: ignore[arg-type]
        tuple(output_padding),  # type: ignore[arg-type]
        groups,
        bias=op.get(2) is not None,
        dilation=window.dilation,  # type: ignore[arg-type]
        device="meta",
    )
    y = op.layer(layer, op[0], **op.weights(weight=1, bias=2))
    return op.call(cropped, y, crop) if any(map(any, crop)) else y


def _removed(op: Op, window: Window) -> tuple[Ints, Ints]:
    """How much of the full result goes before and after; less than nothing where ``output_padding`` adds to it."""
    stride, reach = window.stride, window.reach
    extra = op.attr("output_padding") or (0,) * len(reach)
    auto, shape = op.attr("auto_pad"), op.attr("output_shape")
    if shape is not None:
        size = [n for n in (op.shape(0) or ())[2:] if n is not None]
        if len(size) != len(reach):
            raise UnsupportedError(
                "output_shape needs an input of fixed spatial size; export with pads instead"
            )
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
    """``x`` without so many entries before and after in each spatial dimension."""
    for dim, (before, after) in enumerate(crop, start=2):
        x = x.narrow(dim, before, x.shape[dim] - before - after)
    return x
