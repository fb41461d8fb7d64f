"""Matrix products. With a constant matrix on the right they are an ``nn.Linear``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.values import Constant, Value


@operator("MatMul")
def matmul(op: Op) -> Value:
    """a [..., M, K], b [..., K, N]."""
    if _is_matrix(op[1]):
        weight = op.weight(1).permuted((1, 0))
        out, features = weight.tensor.shape
        return op.layer(nn.Linear(features, out, bias=False, device="meta"), op[0], weight=weight)
    return op.call(torch.matmul, op.parameter(0), op.parameter(1))


@operator("Gemm", since=7)
def gemm(op: Op) -> Value:
    """alpha * a b + beta * c, with a [M, K] and b [K, N] or transposed; c broadcasts to [M, N]."""
    scales, flips = (op.attr("alpha"), op.attr("beta")), (op.flag("transA"), op.flag("transB"))
    bias = op.get(2)
    if scales == (1, 1) and not flips[0] and _is_matrix(op[1]):
        weight = op.weight(1) if flips[1] else op.weight(1).permuted((1, 0))
        out, features = weight.tensor.shape
        if bias is None or (isinstance(bias, Constant) and tuple(bias.tensor.shape) in ((out,), (1, out))):
            layer = nn.Linear(features, out, bias=bias is not None, device="meta")
            return op.layer(layer, op[0], weight=weight, **op.weights(bias=2))
    c = None if bias is None else op.parameter(2)
    return op.call(product, op.parameter(0), op.parameter(1), c, scales, flips)


def _is_matrix(value: Value) -> bool:
    return isinstance(value, Constant) and value.tensor.dim() == 2 and value.tensor.is_floating_point()


def product(
    a: Tensor, b: Tensor, c: Tensor | None, scales: tuple[float, float], flips: tuple[bool, bool]
) -> Tensor:
    """``scales[0] * a @ b + scales[1] * c``, with ``a`` and ``b`` transposed where ``flips`` says so."""
    y = scales[0] * ((a.T if flips[0] else a) @ (b.T if flips[1] else b))
    return y if c is None else y + scales[1] * c
