"""The sliding window of convolutions and pools, and the padding that torch's layers cannot do themselves."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.op import Op

Ints = tuple[int, ...]


class Window(NamedTuple):
    """``kernel`` taps per spatial dimension, and the padding before and after each.

    ``same`` is ``"SAME_UPPER"`` or ``"SAME_LOWER"`` where the padding depends on the size of the input. ``ceil``: a
    last window that starts inside the input, or the padding before it, counts although it ends outside.
    """

    kernel: Ints
    stride: Ints
    dilation: Ints
    before: Ints
    after: Ints
    same: str | None
    ceil: bool

    @property
    def reach(self) -> list[int]:
        """From the first tap to the last, both included."""
        return [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]

    @property
    def symmetric(self) -> bool:
        """Whether ``before`` alone says how much to pad."""
        return self.same is None and self.before == self.after


def read_window(op: Op, kernel: Ints) -> Window:
    """Return the window that the attributes of a convolution or pool describe."""
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    stride, dilation = op.attr("strides") or ones, op.attr("dilations") or ones
    pads, auto = op.attr("pads") or zeros + zeros, op.attr("auto_pad") or "NOTSET"
    if (op.attr("kernel_shape") or kernel) != kernel:
        raise UnsupportedError(f"kernel_shape {op.attr('kernel_shape')} is not that of its weight, {kernel}")
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise UnsupportedError(f"auto_pad = {auto!r} is not supported")
    if auto == "VALID":
        pads = zeros + zeros
    same = auto if auto.startswith("SAME") else None
    window = Window(
        kernel, stride, dilation, pads[: len(kernel)], pads[len(kernel) :], same, op.flag("ceil_mode")
    )
    if same and stride == ones:  # then the padding is the same for any size
        before, after = explicit_padding(ones, window)
        return window._replace(before=before, after=after, same=None)
    return window


def explicit_padding(size: Ints, window: Window) -> tuple[Ints, Ints]:
    """Padding before and after for an input of that spatial size, without what ``ceil`` adds."""
    if window.same is None:
        return window.before, window.after
    # Such that there are ceil(size / stride) windows; an odd one goes after (upper) or before (lower).
    total = [
        max(0, (n - 1) // s * s + reach - n)
        for n, s, reach in zip(size, window.stride, window.reach, strict=True)
    ]
    small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    return (small, large) if window.same == "SAME_UPPER" else (large, small)


def full_padding(size: Ints, window: Window) -> tuple[Ints, Ints]:
    """Padding before and after such that the windows fit in whole."""
    before, after = explicit_padding(size, window)
    if window.ceil and window.same is None:
        after = tuple(map(_up_to_last_window, size, before, after, window.stride, window.reach))
    return before, after


def _up_to_last_window(size: int, before: int, after: int, stride: int, reach: int) -> int:
    last = -(-(size + before + after - reach) // stride) * stride
    if last >= size + before:
        last -= stride
    return last + reach - size - before


def padded(x: Tensor, window: Window, value: float) -> Tensor:
    """Return ``x`` [N, C, *spatial] padded with ``value`` such that the windows fit in whole."""
    return F.pad(x, innermost_first(*full_padding(tuple(x.shape[2:]), window)), "constant", value)


def innermost_first(before: Ints, after: Ints) -> list[int]:
    """Paddings in the order in which torch takes them: last dimension first."""
    return [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
