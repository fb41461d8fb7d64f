"""Resizing, one dimension after the other: each entry of the result is a weighted sum of a few of the input's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reparam_kit.errors import InputError, UnsupportedError
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.levels import picks
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import first
from reparam_kit.onnx.importer.values import Value

# Where the centre of entry i of the result lies in the input: s is the scale, n and m the sizes of input and result.
_COORDINATES: dict[str, Callable[[Tensor, float, int, int], Tensor]] = {
    "align_corners": lambda i, s, n, m: i * ((n - 1) / max(m - 1, 1)),
    "asymmetric": lambda i, s, n, m: i / s,
    "half_pixel": lambda i, s, n, m: (i + 0.5) / s - 0.5,
    "half_pixel_symmetric": lambda i, s, n, m: (i + 0.5) / s - 0.5 + n / 2 - m / (2 * s),
    "pytorch_half_pixel": lambda i, s, n, m: (i + 0.5) / s - 0.5 if m > 1 else 0 * i,
}
_NEAREST: dict[str, Callable[[Tensor], Tensor]] = {
    "ceil": torch.ceil,
    "floor": torch.floor,
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
}
_SUPPORT = {"linear": 1.0, "cubic": 2.0}
_CROP = "tf_crop_and_resize"


class Method(NamedTuple):
    """The attributes of ``Resize``. ``nearest`` is ``None`` where older definitions do not say how to round."""

    mode: str
    coordinates: str
    nearest: str | None
    cubic_a: float
    exclude_outside: bool
    antialias: bool
    keep_aspect: str
    outside: float


@operator("Upsample", since=7)
@operator("Resize", since=10, until=10)
def old_resize(op: Op) -> Value:
    """Take x, scales."""
    mode = "linear" if op.attr("mode") == "bilinear" else op.attr("mode")
    method = Method(mode, "asymmetric", None, 0.0, False, False, "stretch", 0.0)
    return _resize(op, None, op.setting("scales", 1), None, method)


@operator("Resize", since=11)
def resize(op: Op) -> Value:
    """Take x, region, scales, sizes. Only tf_crop_and_resize has a use for a region, and for a value outside of x."""
    method = Method(
        mode=op.attr("mode"),
        coordinates=op.attr("coordinate_transformation_mode"),
        nearest=op.attr("nearest_mode"),
        cubic_a=op.attr("cubic_coeff_a"),
        exclude_outside=op.flag("exclude_outside"),
        antialias=op.flag("antialias"),
        keep_aspect=op.attr("keep_aspect_ratio_policy") or "stretch",
        outside=op.attr("extrapolation_value"),
    )
    region = op.numbers(1)
    return _resize(
        op, region if method.coordinates == _CROP else None, op.numbers(2) or None, op.numbers(3), method
    )


def _resize(op: Op, region: object, scales: object, sizes: object, method: Method) -> Value:
    known = {
        "mode": ("nearest", *_SUPPORT),
        "coordinates": (*_COORDINATES, _CROP),
        "nearest": (None, *_NEAREST),
        "keep_aspect": ("stretch", "not_larger", "not_smaller"),
    }
    for name, values in known.items():
        if getattr(method, name) not in values:
            raise UnsupportedError(f"{name} = {getattr(method, name)!r} is not supported")
    if method.mode != "nearest" and op.shape(0) is not None and not op.dtype(0).is_floating_point:
        raise UnsupportedError(f"mode = {method.mode!r} of integers is not supported")
    axes, shape = op.attr("axes"), op.shape(0)
    if axes is None or 0 in axes:
        first = 0 if axes is None else axes.index(0)
        if isinstance(scales, tuple) and scales[first] != 1:
            raise UnsupportedError("resizing the batch is not supported")
        if isinstance(sizes, tuple) and shape is not None and shape[0] not in (None, sizes[first]):
            raise UnsupportedError("resizing the batch is not supported")
        if isinstance(region, tuple) and (region[first], region[len(region) // 2 + first]) != (0, 1):
            raise UnsupportedError("cropping the batch is not supported")
    return op.call(resized, op[0], region, scales, sizes, axes, method)


def resized(
    x: Tensor,
    region: Sequence[float] | None,
    scales: Sequence[float] | None,
    sizes: Sequence[int] | None,
    axes: Sequence[int] | None,
    method: Method,
) -> Tensor:
    """Return ``x`` resized along ``axes`` by ``scales`` or to ``sizes``; never along the batch, which may be of any
    size.

    ``region`` holds the first and then the last corner of what is cropped first, in units of the input's size.
    """
    axes = [axis % x.dim() for axis in (range(x.dim()) if axes is None else axes)]
    old = [x.shape[axis] for axis in axes]
    spans = [(0.0, 1.0)] * len(axes)
    if region is not None:
        spans = list(zip(region[: len(axes)], region[len(axes) :], strict=True))
    if sizes is None:
        assert scales is not None
        cut = [n * (last - first) for n, (first, last) in zip(old, spans, strict=True)]
        sizes = [int(np.float32(s) * np.float32(n)) for s, n in zip(scales, cut, strict=True)]
    elif method.keep_aspect == "stretch":
        scales = [m / n for m, n in zip(sizes, old, strict=True)]
    else:
        ratios = [m / n for m, n, axis in zip(sizes, old, axes, strict=True) if axis > 0]
        scales = [min(ratios) if method.keep_aspect == "not_larger" else max(ratios)] * len(axes)
        sizes = [int(s * n + 0.5) for s, n in zip(scales, old, strict=True)]
    if min(sizes) < 1:
        raise InputError(f"a Resize of {list(x.shape)} leaves nothing")
    for axis, scale, size, span in zip(axes, scales, sizes, spans, strict=True):
        if axis > 0 and (scale != 1 or size != x.shape[axis] or span != (0, 1)):
            x = _resized_along(x, axis, scale, size, span, method)
    return x


def _resized_along(
    x: Tensor, axis: int, scale: float, size: int, span: tuple[float, float], method: Method
) -> Tensor:
    # In float32, as runtimes compute it, so that both round a coordinate between two entries to the same one.
    at, length = torch.arange(size, dtype=torch.float32), x.shape[axis]
    if method.coordinates != _CROP:
        return _sampled(x, axis, _COORDINATES[method.coordinates](at, scale, length, size), scale, method)
    first, last = (edge * (length - 1) for edge in span)
    at = first + at * ((last - first) / (size - 1)) if size > 1 else (at + first + last) / 2
    inside = ((at >= 0) & (at <= length - 1)).reshape([-1 if dim == axis else 1 for dim in range(x.dim())])
    return torch.where(inside.to(x.device), _sampled(x, axis, at, scale, method), method.outside)


def _sampled(x: Tensor, axis: int, at: Tensor, scale: float, method: Method) -> Tensor:
    """Return ``x`` along ``axis`` where ``at`` says."""
    length = x.shape[axis]
    if method.mode == "nearest":
        rounded = _NEAREST[method.nearest or ("ceil" if scale < 1 else "floor")](at)
        return x.index_select(axis, rounded.long().clamp(0, length - 1).to(x.device))
    stretch = min(scale, 1.0) if method.antialias else 1.0
    reach = _SUPPORT[method.mode] / stretch
    taps = (torch.floor(at - reach) + 1)[:, None] + torch.arange(ceil(2 * reach))
    weights = _filter((taps - at[:, None]).abs() * stretch, method)
    if method.exclude_outside:
        weights = weights * ((taps >= 0) & (taps < length))
    weights = (weights / weights.sum(1, keepdim=True)).to(x)
    index = taps.long().clamp(0, length - 1).to(x.device)
    per_axis = [-1 if dim == axis else 1 for dim in range(x.dim())]
    return torch.stack(
        [x.index_select(axis, i) * w.reshape(per_axis) for i, w in zip(index.T, weights.T, strict=True)]
    ).sum(0)


def _filter(distance: Tensor, method: Method) -> Tensor:
    """Weight of an entry at that distance from the centre: a triangle, or Keys' cubic (1981)."""
    if method.mode == "linear":
        return (1 - distance).clamp(min=0)
    a, d = method.cubic_a, distance
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((d - 5) * d + 8) * d * a - 4 * a
    return torch.where(d <= 1, inner, torch.where(d < 2, outer, torch.zeros_like(d)))


rule(first, resized)
picks(resized)
