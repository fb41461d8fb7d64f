"""A matrix product whose weights are packed levels of few bits, with a scale for each block of a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reparam_kit.errors import InputError, UnsupportedError
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.values import Constant, Value
from reparam_kit.onnx.provenance import Grid, Unpacked


@operator("MatMulNBits", domain="com.microsoft")
def matmul_nbits(op: Op) -> Value:
    """Take a [..., K], packed levels [N, blocks, bytes], scales and zero points [N, blocks], and a bias [N].

    How the sums are rounded, ``accuracy_level``, is left to the processor; here they are in floating point.
    """
    bits, block, rows, columns = (op.attr(name) for name in ("bits", "block_size", "N", "K"))
    bits = 4 if bits is None else bits
    for attribute in ("accuracy_level", "weight_prepacked"):
        op.attr(attribute)
    packed, scales, bias = op[1], op[2], op.weights(bias=5)
    if op.get(4) is not None:
        raise UnsupportedError("an order of its rows (input 4) is not supported")
    if not isinstance(packed, Constant) or not isinstance(scales, Constant) or bias is None:
        raise UnsupportedError("levels, scales or a bias that are computed in the graph are not supported")
    blocks, size = -(-columns // block), block * bits // 8
    if 8 % bits or tuple(packed.tensor.shape) != (rows, blocks, size):
        raise InputError(
            f"input 1 has the shape {list(packed.tensor.shape)}, not {[rows, blocks, size]}: {rows} rows of {columns} "
            f"levels of {bits} bits, in blocks of {block}"
        )

    def spread(setting: NDArray[np.generic]) -> NDArray[np.generic]:
        return np.repeat(setting.reshape(rows, blocks), block, 1)[:, :columns]

    zero = np.full((rows, blocks), 2 ** (bits - 1), np.uint8)
    if op.get(3) is not None:
        zero = _zero_points(op, (rows, blocks), bits)
    grid = Grid(spread(op.read(scales).numpy()), spread(zero), (0, 2**bits - 1))
    weight = packed.then(Unpacked(bits, columns, (rows, blocks, size))).then(grid)
    layer = nn.Linear(columns, rows, bias=bool(bias), device="meta")
    return op.layer(layer, op[0], weight=op.made(weight), **bias)


def _zero_points(op: Op, shape: tuple[int, int], bits: int) -> NDArray[np.uint8]:
    given = op[3]
    if not isinstance(given, Constant) or given.tensor.is_floating_point():
        raise UnsupportedError("zero points (input 3) that are no stored integers are not supported")
    packed = op.read(given).numpy().reshape(shape[0], -1)
    return Unpacked(bits, shape[1], packed.shape).values(packed)
