"""What an ONNX value is at import: computed at run time (an ``fx.Node``) or known (a :class:`Constant`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, fx

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.provenance import Grid, Source


@dataclass(frozen=True, eq=False)
class Constant:
    """A known tensor, and where the file stores it: ``source`` is ``None`` if it was computed from other constants."""

    tensor: Tensor
    name: str
    source: Source | None = None

    def permuted(self, order: Sequence[int]) -> Constant:
        """Return it with its dimensions in another order, and still stored at the same place."""
        source = self.source
        if source is not None:
            stored = source.permutation or range(len(order))
            source = replace(source, permutation=tuple(order.index(dim) for dim in stored))
        return Constant(self.tensor.permute(*order), self.name, source)

    def reshaped(self, shape: tuple[int, ...]) -> Constant:
        """Return it in another shape. It is still stored at the same place, unless its dimensions are also in another
        order there.
        """
        if shape == tuple(self.tensor.shape):
            return self
        unordered = self.source is not None and self.source.permutation is None
        return Constant(self.tensor.reshape(shape), self.name, self.source if unordered else None)

    def on_grid(self, grid: Grid) -> Constant:
        """Return what the integers stand for, stored at the same place."""
        assert self.source is not None
        values = torch.from_numpy(grid.values(self.tensor.numpy()))
        return Constant(values, self.name, replace(self.source, grid=grid))


Value: TypeAlias = "fx.Node | Constant"


# torch has no arithmetic for the other types of ONNX: wide unsigned integers, 8-bit floats, int4, strings.
DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def dtype_of(onnx_type: int) -> torch.dtype:
    """Return the torch dtype of a ``TensorProto.DataType``; :class:`UnsupportedError` where torch has none."""
    if onnx_type not in DTYPES:
        name = TensorProto.DataType.Name(onnx_type)
        raise UnsupportedError(
            f"tensors of type {name} are not supported; export the model in float32 or float16"
        )
    return DTYPES[onnx_type]


def to_tensor(array: NDArray[Any], onnx_type: int) -> Tensor:
    """Return a torch copy of ``array``, which ``onnx`` has read from a tensor of that type."""
    if dtype_of(onnx_type) is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def leaves(argument: object) -> Iterator[object]:
    """Everything in nested tuples and lists of arguments."""
    if isinstance(argument, (tuple, list)):
        for item in argument:
            yield from leaves(item)
    else:
        yield argument
