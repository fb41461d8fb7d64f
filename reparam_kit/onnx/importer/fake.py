"""A ``QuantizeLinear`` and the ``DequantizeLinear`` right behind it in one: fake quantisation with one scale.

It gives the same numbers as the two, and the same gradient. These are cheap operations on large tensors, whose time is
that of moving the numbers; so on the CPU all is done to a part of them that fits into its cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.levels import divisor
from reparam_kit.onnx.importer.rules import elementwise
from reparam_kit.onnx.importer.values import ends

LEVELS = "levels"  # of a node of such: the name of the integers in the file, their scale and zero
_AT_ONCE = 2**15


def fake_quantised(x: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return what the nearest levels of ``dtype`` stand for, in the dtype of ``scale``, one number.

    The gradient is that of ``x``, and zero where a level beyond the first or the last is nearest.
    """
    step = scale.reshape(())
    shift = torch.zeros_like(step) if zero is None else zero.reshape(()).to(step.dtype)
    value: Tensor = _FakeQuantised.apply(x, step, shift, *ends(dtype))  # type: ignore[no-untyped-call]
    return value


class _FakeQuantised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, shift: Tensor, first: int, last: int) -> Tensor:
        by = divisor(step)
        numbers = x.to(step.dtype).contiguous()
        value, outside = torch.empty_like(numbers), torch.empty_like(numbers, dtype=torch.bool)
        length = _AT_ONCE if x.is_cpu else max(x.numel(), 1)
        parts = (torch.split(tensor.view(-1), length) for tensor in (numbers, value, outside))
        for part, level, beyond in zip(*parts, strict=True):
            torch.div(part, by, out=level).round_().add_(shift)
            nearest = level.clamp(first, last)
            torch.ne(level, nearest, out=beyond)
            torch.sub(nearest, shift, out=level).mul_(step)
        ctx.save_for_backward(outside)
        ctx.dtype = x.dtype
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (outside,) = ctx.saved_tensors
        return grads[0].masked_fill(outside, 0).to(ctx.dtype), None, None, None, None


rule(elementwise, fake_quantised)
