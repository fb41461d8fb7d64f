"""What an ONNX value is at import: computed at run time (an ``fx.Node``) or known (a :class:`Constant`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, fx

from reparam_kit.errors import UnsupportedError


@dataclass(frozen=True, eq=False)
class Constant:
    """A known tensor.

    ``kind`` says where the file stores it under ``name``; ``None``: nowhere, it was computed from other constants.
    """

    tensor: Tensor
    name: str
    kind: Literal["initializer", "constant"] | None


Value: TypeAlias = "fx.Node | Constant"


@dataclass(frozen=True)
class Weight:
    """A constant that is to be a tensor of a layer. ``permutation`` orders the layer's dimensions as in the file."""

    constant: Constant
    permutation: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the file."""
        return tuple(self.constant.tensor.shape)


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
    """The torch dtype of a ``TensorProto.DataType``; :class:`UnsupportedError` where torch has none."""
    if onnx_type not in DTYPES:
        name = TensorProto.DataType.Name(onnx_type)
        raise UnsupportedError(
            f"tensors of type {name} are not supported; export the model in float32 or float16"
        )
    return DTYPES[onnx_type]


def to_tensor(array: NDArray[Any], onnx_type: int) -> Tensor:
    """A torch copy of ``array``, which ``onnx`` has read from a tensor of that type."""
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
