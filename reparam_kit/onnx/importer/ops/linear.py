"""Matrix products. With a constant matrix on the right they are an ``nn.Linear``."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import matrix_product_and_sum, product_of_two
from reparam_kit.onnx.importer.values import Constant, Value


@operator("MatMul")
def matmul(op: Op) -> Value:
    """Take a [..., M, K], b [..., K, N]."""
    matrix = op[1]
    if _is_matrix(matrix):
        weight = matrix.permuted((1, 0))
        out, features = weight.tensor.shape
        return op.layer(nn.Linear(features, out, bias=False, device="meta"), op[0], weight=weight)
    return op.call(torch.matmul, op.parameter(0), op.parameter(1))


@operator("Gemm", since=7)
def gemm(op: Op) -> Value:
    """Compute alpha * a b + beta * c, with a [M, K] and b [K, N] or transposed; c broadcasts to [M, N]."""
    scales, flips = (op.attr("alpha"), op.attr("beta")), (op.flag("transA"), op.flag("transB"))
    matrix, bias = op[1], op.weights(bias=2)
    if scales == (1, 1) and not flips[0] and _is_matrix(matrix) and bias is not None:
        weight = matrix if flips[1] else matrix.permuted((1, 0))
        out, features = weight.tensor.shape
        if all(tuple(constant.tensor.shape) in ((out,), (1, out)) for constant in bias.values()):
            layer = nn.Linear(features, out, bias=bool(bias), device="meta")
            return op.layer(layer, op[0], weight=weight, **bias)
    return op.call(product, op.parameter(0), op.parameter(1), op.parameter(2), scales, flips)


def _is_matrix(value: Value) -> TypeGuard[Constant]:
    return isinstance(value, Constant) and value.tensor.dim() == 2 and value.tensor.is_floating_point()


def product(
    a: Tensor, b: Tensor, c: Tensor | None, scales: tuple[float, float], flips: tuple[bool, bool]
) -> Tensor:
    """Return ``scales[0] * a @ b + scales[1] * c``, with ``a`` and ``b`` transposed where ``flips`` says so."""
    y = scales[0] * ((a.T if flips[0] else a) @ (b.T if flips[1] else b))
    return y if c is None else y + scales[1] * c


rule(product_of_two, torch.matmul)
rule(matrix_product_and_sum, product)
