"""The layers that can be written as a sum of branches: which kernel each stands for, and how it stores it.

The algebra knows one operator, correlation on a grid of taps. A convolution is that as it stands. A transposed
convolution is the correlation, with its taps reversed and its channels swapped, of an input that has ``stride - 1``
zeros between neighbours (V. Dumoulin, F. Visin, "A guide to convolution arithmetic for deep learning", 2016, section
4.5). A linear layer is a convolution without taps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from reparam_kit.algebra.kernel import Geometry, Kernel

Layer = _ConvNd | nn.Linear
LAYERS = (_ConvNd, nn.Linear)

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def geometry(layer: Layer) -> Geometry:
    """Shape of the kernel that ``layer`` stands for."""
    if isinstance(layer, nn.Linear):
        return Geometry(layer.in_features, layer.out_features, ())
    return Geometry(layer.in_channels, layer.out_channels, each(layer, "kernel_size"), layer.groups)


def weight_shape(layer: Layer) -> tuple[int, ...]:
    """Shape that the settings of ``layer`` say its weight has, as it is stored."""
    shape = geometry(layer)
    if not isinstance(layer, _ConvTransposeNd):
        return shape.weight_shape
    return (shape.in_channels, shape.out_channels // shape.groups, *shape.taps)


def each(layer: _ConvNd, setting: str) -> tuple[int, ...]:
    """Return ``stride``, ``dilation``, ... of a layer, one number a dimension; set afterwards, it may be one
    for all.
    """
    value = getattr(layer, setting)
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers if len(numbers) > 1 else numbers * len(layer.output_padding)


def to_kernel(layer: Layer, weight: Tensor) -> Kernel:
    """Return the kernel that a weight as ``layer`` stores it stands for."""
    if isinstance(layer, nn.Linear):
        return Kernel(weight)
    return Kernel(
        _transposed(weight, layer.groups) if isinstance(layer, _ConvTransposeNd) else weight, layer.groups
    )


def to_weight(layer: Layer, kernel: Kernel) -> Tensor:
    """Return ``kernel`` as ``layer`` stores it: the inverse of ``to_kernel``."""
    weight = kernel.weight
    return _transposed(weight, kernel.groups) if isinstance(layer, _ConvTransposeNd) else weight


def grid(layer: Layer, x: Tensor, out: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Return what a kernel is correlated with in place of ``layer``, without padding: ``(input, stride, dilation)``.

    Args:
        layer: the layer.
        x: its input, ``[N, C, ...]`` or ``[C, ...]``; for a linear layer ``[..., C]``, which becomes ``[M, C]``.
        out: its output, whose size a transposed convolution leaves open.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, layer.in_features), (), ()
    stride, dilation, taps = each(layer, "stride"), each(layer, "dilation"), each(layer, "kernel_size")
    if x.dim() == len(taps) + 1:
        x, out = x[None], out[None]
    if not isinstance(layer, _ConvTransposeNd):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        return F.pad(x, _padding(layer), mode=mode), stride, dilation
    spread = [(length - 1) * step + 1 for length, step in zip(x.shape[2:], stride, strict=True)]
    stuffed = x.new_zeros(*x.shape[:2], *spread)
    every = tuple(slice(None, None, step) for step in (1, 1, *stride))
    stuffed[every] = x
    padding: list[int] = []
    for i, before in reversed(list(enumerate(each(layer, "padding")))):
        reach = dilation[i] * (taps[i] - 1)
        padding += [reach - before, out.shape[2 + i] - spread[i] + before]
    return F.pad(stuffed, padding), (1,) * len(spread), dilation


def _padding(layer: _ConvNd) -> list[int]:
    """Return what a convolution pads its input by, as ``F.pad`` takes it: the last dimension first, before and after.

    Only where it pads in another mode than zeros, torch looks at what it worked out when the layer was made: then
    settings that were changed afterwards count for nothing.
    """
    if layer.padding_mode != "zeros":
        return list(layer._reversed_padding_repeated_twice)
    taps, dilation = each(layer, "kernel_size"), each(layer, "dilation")
    if layer.padding == "same":
        totals = [rate * (tap - 1) for rate, tap in zip(dilation, taps, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    elif layer.padding == "valid":
        pairs = [(0, 0)] * len(taps)
    else:
        pairs = [(amount, amount) for amount in each(layer, "padding")]
    return [amount for pair in reversed(pairs) for amount in pair]


def correlate(x: Tensor, kernel: Kernel, stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """Apply ``kernel`` to ``x`` ``[N, C, ...]``, without padding; without taps, to ``[M, C]``."""
    if not kernel.taps:
        return F.conv1d(x[..., None], kernel.weight[..., None], kernel.bias, groups=kernel.groups)[..., 0]
    return _CONV[len(kernel.taps)](x, kernel.weight, kernel.bias, stride, 0, dilation, kernel.groups)


def by_channel(layer: Layer, out: Tensor) -> Tensor:
    """Return an output of ``layer`` as ``[O, M]``, all values of a channel in a row."""
    if isinstance(layer, nn.Linear):
        return out.movedim(-1, 0).reshape(layer.out_features, -1)
    batched = out if out.dim() == len(layer.output_padding) + 2 else out[None]
    return batched.transpose(0, 1).flatten(1)


def _transposed(weight: Tensor, groups: int) -> Tensor:
    """Swap the channels in each group and reverse the taps; its own inverse."""
    first, second, *taps = weight.shape
    swapped = weight.reshape(groups, first // groups, second, *taps).transpose(1, 2)
    return swapped.reshape(groups * second, first // groups, *taps).flip(tuple(range(2, 2 + len(taps))))
