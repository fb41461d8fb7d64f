"""A ``QuantizeLinear`` and the ``DequantizeLinear`` right behind it in one: fake quantisation with one scale.

It gives the same numbers as the two, and the same gradient, part after part.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.levels import divisor, in_parts, mask_for, settled, straight_through
from reparam_kit.onnx.importer.rules import elementwise
from reparam_kit.onnx.importer.values import ends

LEVELS = "levels"  # of a node of such: the name of the integers in the file, their scale and zero


def fake_quantised(
    x: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype, saturates: bool = True
) -> Tensor:
    """Return what the nearest levels of ``dtype`` stand for, in the dtype of ``scale``, one number.

    The gradient is that of ``x``, and zero where a level beyond the first or the last is nearest, unless it is known
    that at most a rounding goes beyond (not ``saturates``).
    """
    step = scale.reshape(())
    shift = None if zero is None else zero.reshape(()).to(step.dtype)
    by, numbers = divisor(step), x.detach().to(step.dtype).contiguous()
    value, inside = torch.empty_like(numbers), mask_for(numbers) if saturates and x.requires_grad else None
    for part, result, mask in in_parts([numbers, value, inside]):
        settled(part / by, shift, *ends(dtype), result, mask)
        if shift is not None:
            result.sub_(shift)
        result.mul_(step)
    return straight_through(value, inside, x.to(step.dtype))


rule(elementwise, fake_quantised)
