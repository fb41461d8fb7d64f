"""Operators that onnxruntime makes of several when it optimises a file: each is imported as its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import imported, operator
from reparam_kit.onnx.importer.rules import elementwise
from reparam_kit.onnx.importer.values import Constant, Value

_MICROSOFT = "com.microsoft"
_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
# What a fused activation reads, in the order of ``activation_params``; those of Clip became inputs.
_SETTINGS = {
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
}


@operator("FusedConv", domain=_MICROSOFT)
def fused_conv(op: Op) -> Value:
    """Take x, weight, bias, and what is added to the result before the activation."""
    window = {name: op.attr(name) for name in _WINDOW}
    y, added = _part(op, "Conv", op[0], op[1], op.get(2), **window), op.get(3)
    if added is not None:
        y = _part(op, "Add", y, added)
    return _activated(op, y, op.attr("activation_params") or ())


@operator("FusedGemm", domain=_MICROSOFT)
def fused_gemm(op: Op) -> Value:
    """Take a, b, c; see Gemm."""
    settings = {name: op.attr(name) for name in ("alpha", "beta", "transA", "transB")}
    y = _part(op, "Gemm", op[0], op[1], op.get(2), **settings)
    given = [op.attr(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    return _activated(op, y, [number for number in given if number is not None])


def _activated(op: Op, y: Value, numbers: Sequence[float]) -> Value:
    kind = op.attr("activation")
    if not kind:
        return y
    if kind == "Clip":
        bounds = (Constant(torch.tensor(number), f"bound_{i}") for i, number in enumerate(numbers))
        return _part(op, kind, y, *bounds)
    return _part(op, kind, y, **dict(zip(_SETTINGS.get(kind, ()), numbers, strict=False)))


@operator("FusedMatMul", "TransposeMatMul", domain=_MICROSOFT)
def fused_matmul(op: Op) -> Value:
    """Compute alpha * a b, of which either may be transposed, and have its first dimension for one of its matrix."""
    a, b = (
        _arranged(op, i, op.attr(f"trans{side}"), op.attr(f"transBatch{side}")) for i, side in enumerate("AB")
    )
    y, alpha = _part(op, "MatMul", a, b), op.attr("alpha")
    return y if alpha in (None, 1) else op.call(torch.mul, y, alpha)


def _arranged(op: Op, index: int, transposed: int | None, by_batch: int | None) -> Value:
    if not (transposed or by_batch) or op.rank(index) < 2:
        return op[index]
    *batch, row, column = range(op.rank(index))
    if by_batch:
        batch, row = [*batch, row][1:], 0
    return _part(
        op, "Transpose", op[index], perm=[*batch, column, row] if transposed else [*batch, row, column]
    )


@operator("Gelu", domain=_MICROSOFT)
def gelu(op: Op) -> Value:
    """Take x."""
    return _part(op, "Gelu", op[0])


@operator("BiasGelu", domain=_MICROSOFT)
def bias_gelu(op: Op) -> Value:
    """Take x, bias."""
    return _part(op, "Gelu", _part(op, "Add", op[0], op.parameter(1)))


@operator("FastGelu", domain=_MICROSOFT)
def fast_gelu(op: Op) -> Value:
    """Take x, bias: by the hyperbolic tangent."""
    bias = op.parameter(1)
    return _part(op, "Gelu", op[0] if bias is None else _part(op, "Add", op[0], bias), approximate="tanh")


@operator("QuickGelu", domain=_MICROSOFT)
def quick_gelu(op: Op) -> Value:
    """Compute x * sigmoid(alpha * x)."""
    alpha = op.attr("alpha")
    return op.call(gated, op[0], 1.702 if alpha is None else alpha)


@operator("LayerNormalization", domain=_MICROSOFT)
def layer_norm(op: Op) -> tuple[Value | None, ...]:
    """Take x, scale, bias."""
    settings = {name: op.attr(name) for name in ("axis", "epsilon", "stash_type")}
    return imported(op.part("LayerNormalization", (op[0], op[1], op.get(2)), settings))


@operator("SimplifiedLayerNormalization", domain=_MICROSOFT)
@operator("SimplifiedLayerNormalization")
def simplified_layer_norm(op: Op) -> Value:
    """Take x, scale: over the root of the mean square."""
    settings = {name: op.attr(name) for name in ("axis", "epsilon", "stash_type")}
    return _part(op, "RMSNormalization", op[0], op[1], **settings)


@operator("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=_MICROSOFT)
def skip_layer_norm(op: Op) -> tuple[Value | None, ...]:
    """Take x, what is added to it, scale, bias, and another bias that is added to x; the simplified one has no first
    bias. The last output is the sum.
    """
    simplified, epsilon = op.type == "SkipSimplifiedLayerNormalization", op.attr("epsilon")
    total, added = _part(op, "Add", op[0], op[1]), op.parameter(3 if simplified else 4)
    if added is not None:
        total = _part(op, "Add", total, added)
    kind, affine = (
        ("RMSNormalization", (op[2],)) if simplified else ("LayerNormalization", (op[2], op.get(3)))
    )
    y = _part(op, kind, total, *affine, epsilon=1e-12 if epsilon is None else epsilon)
    return y, None, None, total


def _part(op: Op, op_type: str, *inputs: Value | None, **attributes: Any) -> Value:
    """Return what ONNX's operator ``op_type`` makes of ``inputs``, as a part of what ``op`` does."""
    result = imported(op.part(op_type, inputs, attributes))[0]
    assert result is not None
    return result


def gated(x: Tensor, alpha: float) -> Tensor:
    """Return ``x * sigmoid(alpha * x)``."""
    return x * torch.sigmoid(alpha * x)


rule(elementwise, gated)
