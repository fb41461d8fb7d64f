"""What an ONNX value is at import: computed at run time (an ``fx.Node``) or known (a :class:`Constant`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, fx

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.provenance import Combined, FakeGrid, Grid, Narrowed, Permuted, Reshaped, Source, Step


@dataclass(frozen=True, eq=False)
class Constant:
    """A known tensor, and where the file stores it: ``source`` is ``None`` if there is no way back to it.

    ``lost`` says then why, if the tensor was made of a stored one. ``dtype`` is that of the file, where torch may hold
    it in another. Of integers, ``between`` are the first and the last that may be there, where these are not those of
    the dtype. Those that a ``QuantizeLinear`` made of a stored weight have that as ``numbers``.
    """

    tensor: Tensor
    name: str
    source: Source | None = None
    dtype: torch.dtype | None = None
    lost: str | None = None
    between: tuple[int, int] | None = None
    numbers: Constant | None = None

    def permuted(self, order: tuple[int, ...]) -> Constant:
        """Return it with its dimensions in another order, and still stored at the same place."""
        order = tuple(dim % len(order) for dim in order)
        made = self._with(self.tensor.permute(order), Permuted(order))
        return replace(made, numbers=self.numbers and self.numbers.permuted(order))

    def reshaped(self, shape: tuple[int, ...]) -> Constant:
        """Return it in another shape, and still stored at the same place."""
        made = self._with(self.tensor.reshape(shape), Reshaped(tuple(self.tensor.shape), shape))
        return replace(made, numbers=self.numbers and self.numbers.reshaped(shape))

    def clipped(self, low: int | None, high: int | None) -> Constant | None:
        """Return integers between two bounds, still those of a weight; ``None`` where the file stores some beyond,
        or no integers.
        """
        if self.tensor.is_floating_point() or self.tensor.dtype is torch.bool:
            return None
        first, last = self.between or ends(self.dtype or self.tensor.dtype)
        between = (first if low is None else max(low, first), last if high is None else min(high, last))
        tensor = self.tensor.clamp(*between)
        if self.numbers is None and not tensor.equal(self.tensor):
            return None
        return replace(self, tensor=tensor, between=between)

    def within(self, between: tuple[int, int]) -> Constant:
        """Return it on its grid, of which only the levels between these two are taken."""
        assert self.source is not None
        steps = (
            replace(step, ends=between) if isinstance(step, Grid) else step for step in self.source.steps
        )
        return replace(self, source=replace(self.source, steps=tuple(steps)))

    def cast(self, dtype: torch.dtype) -> Constant:
        """Return it in another floating-point type, and still stored at the same place."""
        if dtype in _WIDER and dtype != self.dtype:
            return replace(self.then(Narrowed(_NUMPY[dtype])), dtype=dtype)
        return replace(self, tensor=as_dtype(self.tensor, dtype), dtype=dtype)

    def then(self, step: Step) -> Constant:
        """Return what ``step`` makes of its numbers, stored at the same place."""
        made = self._with(torch.from_numpy(step.values(self.tensor.numpy())), step)
        return replace(made, dtype=None, between=None)

    def combined(self, operator: str, constant: NDArray[Any]) -> Constant | None:
        """Return it taken with a constant, stored at the same place; ``None`` where it cannot be."""
        assert self.source is not None
        steps, grid = self.source.steps, self.source.grid
        if grid is None:
            return self.then(Combined(operator, constant))
        new = grid.combined(operator, constant)
        if new is None or grid is not steps[-1] or isinstance(grid, FakeGrid):
            return None
        values = torch.from_numpy(new.values(grid.stored(self.tensor.numpy())))
        return replace(self, tensor=values, source=replace(self.source, steps=(*steps[:-1], new)))

    def _with(self, tensor: Tensor, step: Step) -> Constant:
        return replace(self, tensor=tensor, source=self.source and self.source.then(step))


Value: TypeAlias = "fx.Node | Constant"
_TYPE = "type in the file"


# torch has no arithmetic for the other types of ONNX: wide unsigned integers, 8-bit floats, strings.
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

# Half types, of which a training would lose small steps, are held in float32 and rounded once where they are written.
_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_NUMPY = {DTYPES[t]: helper.tensor_dtype_to_np_dtype(t) for t in (TensorProto.FLOAT16, TensorProto.BFLOAT16)}
# Types that torch has a name for and no arithmetic: what their numbers are held in, the first and the last of them.
_NARROW = {
    "uint16": (torch.int32, 0, 2**16 - 1),
    "int4": (torch.int8, -8, 7),
    "uint4": (torch.uint8, 0, 15),
    "int2": (torch.int8, -2, 1),
    "uint2": (torch.uint8, 0, 3),
}
_HELD: dict[torch.dtype, tuple[torch.dtype, int, int]] = {
    getattr(torch, name): how for name, how in _NARROW.items()
}
DTYPES |= {  # not every version of onnx has all
    number: getattr(torch, name.lower())
    for name, number in TensorProto.DataType.items()
    if name.lower() in _NARROW
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
    """Return a torch copy of ``array``, which ``onnx`` has read from a tensor of that type; see :func:`held`."""
    dtype = dtype_of(onnx_type)
    if held(dtype) != dtype:
        return torch.from_numpy(array.astype(str(held(dtype)).removeprefix("torch.")))
    return torch.from_numpy(np.array(array))


def held(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of tensors of ``dtype``: itself, or a wider one that torch can compute, or train, with."""
    return _HELD[dtype][0] if dtype in _HELD else _WIDER.get(dtype, dtype)


def ends(dtype: torch.dtype) -> tuple[int, int]:
    """Return the first and the last of the integers of ``dtype``."""
    if dtype in _HELD:
        return _HELD[dtype][1:]
    range_ = torch.iinfo(dtype)
    return range_.min, range_.max


def typed(value: Value, dtype: torch.dtype) -> Value:
    """Return ``value``, which the file has in ``dtype``, whatever it is held in."""
    if isinstance(value, Constant):
        return replace(value, dtype=dtype)
    value.meta[_TYPE] = dtype
    return value


def file_dtype(value: Value) -> torch.dtype | None:
    """Return the dtype that :func:`typed` was told; ``None`` where it is that of the tensor."""
    found: torch.dtype | None = value.dtype if isinstance(value, Constant) else value.meta.get(_TYPE)
    return found


def as_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``x`` in another dtype, of which integers go around beyond the last, and half types round."""
    if dtype in _WIDER:
        return _rounded(x.to(_WIDER[dtype]), dtype)
    if dtype not in _HELD:
        return x.to(dtype)
    first, last = ends(dtype)
    return ((x.to(torch.int64) - first) % (last - first + 1) + first).to(held(dtype))


def _rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``x`` rounded to the numbers of a half type, with a gradient that is not: small ones would be lost."""
    nearest = x.detach().to(dtype).to(x.dtype)
    return torch.where(x.isfinite(), x + (nearest - x.detach()), nearest)


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if it is of a half type, as what the file takes may be."""
    return x.to(held(x.dtype)) if x.is_floating_point() else x


def leaves(argument: object) -> Iterator[object]:
    """Everything in nested tuples and lists of arguments."""
    if isinstance(argument, (tuple, list)):
        for item in argument:
            yield from leaves(item)
    else:
        yield argument
