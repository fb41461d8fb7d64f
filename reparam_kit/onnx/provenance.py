"""Where every tensor of an imported model came from, and how it goes back.

An imported model carries one :class:`Provenance` in ``model.meta["onnx"]``. It holds the file as it was read, so that
writing back can start from those very bytes, and says for each parameter and buffer which ONNX tensor it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reparam_kit.errors import InputError
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.scales import OwnScale

if TYPE_CHECKING:
    from torch import Tensor, nn


class Step(Protocol):
    """What an operator makes of a stored tensor before a layer uses it, and the way back."""

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return what the operator makes of the numbers ``stored``."""

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers of which the operator makes ``values``."""


@dataclass(frozen=True)
class Permuted:
    """Dimensions in another order: ``order`` as in numpy's transpose."""

    order: tuple[int, ...]

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return ``stored`` in that order."""
        return np.transpose(stored, self.order)

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return ``values`` in the order before."""
        return np.transpose(values, np.argsort(self.order))


@dataclass(frozen=True)
class Reshaped:
    """The same numbers in the same order, in the shape ``after`` instead of ``before``."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return ``stored`` in the shape ``after``."""
        return stored.reshape(self.after)

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return ``values`` in the shape ``before``."""
        return values.reshape(self.before)


@dataclass(frozen=True)
class Unpacked:
    """Rows of ``count`` levels of ``bits`` bits, the first in the lowest bits of a byte.

    ``shape`` is that of the bytes.
    """

    bits: int
    count: int
    shape: tuple[int, ...]

    def values(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the levels."""
        each = stored.astype(np.uint8)[..., None] >> self._shifts & (2**self.bits - 1)
        return np.asarray(each.reshape(self.shape[0], -1)[:, : self.count])

    def stored(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the bytes that hold the levels ``values``, NaN where one of them is."""
        total = prod(self.shape[1:]) * len(self._shifts)
        padded = np.pad(values.astype(np.float64), ((0, 0), (0, total - self.count)))
        return np.asarray((padded.reshape(*self.shape, -1) * 2.0**self._shifts).sum(-1))

    @property
    def _shifts(self) -> NDArray[np.uint8]:
        return np.arange(0, 8, self.bits, dtype=np.uint8)


@dataclass(frozen=True)
class Narrowed:
    """Rounded to the numbers of a half type, ``dtype``, which are held in float32."""

    dtype: np.dtype[Any]

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the nearest numbers of that type."""
        with np.errstate(over="ignore"):
            return stored.astype(self.dtype).astype(np.float32)

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return ``values``, of which the file can hold all."""
        return values


# Operator -> what it does with the weight and a constant, and what does the contrary.
INVERSES = {
    "Add": (np.add, np.subtract),
    "Div": (np.divide, np.multiply),
    "Mul": (np.multiply, np.divide),
    "Sub": (np.subtract, np.add),
}


@dataclass(frozen=True, eq=False)
class Combined:
    """Taken with a ``constant`` that broadcasts to the tensor, by an ``operator`` of :data:`INVERSES`."""

    operator: str
    constant: NDArray[Any]

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return ``stored`` and the constant put together, in the dtype of the constant."""
        with np.errstate(all="ignore"):
            return np.asarray(INVERSES[self.operator][0](stored.astype(self.constant.dtype), self.constant))

    def stored(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return ``values`` without the constant, in float64 so that it is rounded only where it is written."""
        with np.errstate(all="ignore"):
            return np.asarray(INVERSES[self.operator][1](values.astype(np.float64), self.constant))


@dataclass(frozen=True, eq=False)
class Grid:
    """What the integers of a quantised tensor stand for: ``(level - zero) * scale``.

    ``scale`` (floating point) and ``zero`` (integers) broadcast to the ONNX tensor. ``ends`` are the first and the last
    level. ``division`` is the type in which a number is divided by the scale to find its level. Grids of the same
    numbers are equal, so that integers which two nodes dequantise alike are one weight.
    """

    scale: NDArray[Any]
    zero: NDArray[Any]
    ends: tuple[int, int]
    division: str = "float64"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def _content(self) -> tuple[object, ...]:
        arrays = ((x.shape, x.dtype, x.tobytes()) for x in map(np.asarray, (self.scale, self.zero)))
        return type(self), *arrays, self.ends, self.division

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return what the levels ``stored`` stand for, in the dtype of the scale."""
        difference = stored.astype(self.scale.dtype) - self.zero.astype(self.scale.dtype)
        with np.errstate(over="ignore"):
            return np.asarray(difference * self.scale)  # numpy makes a number of a product of scalars

    def stored(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the nearest level for each of ``values``, the first or last for those beyond; NaN where one is not
        finite.
        """
        return np.where(np.isfinite(values), np.clip(self.nearest(values), *self.ends), np.nan)

    def nearest(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the nearest level for each of ``values``, also beyond the first and the last."""
        with np.errstate(all="ignore"):
            scale = self.scale.astype(self.division)
            at = values.astype(self.division) / np.where(scale == 0, np.finfo(scale.dtype).tiny, scale)
            return np.asarray(np.rint(at) + self.zero.astype(np.float64))

    def combined(self, operator: str, constant: NDArray[Any]) -> Grid | None:
        """Return the grid of its numbers taken with a constant by an operator of :data:`INVERSES`, if that is one."""
        if operator in ("Div", "Mul"):
            return replace(self, scale=INVERSES[operator][0](self.scale, constant))
        with np.errstate(all="ignore"):
            moved = constant.astype(np.float64) / self.scale
        if not np.array_equal(moved, np.rint(moved)) or np.abs(moved).max(initial=0) > 2**31:
            return None
        return replace(self, zero=self.zero - INVERSES[operator][0](0, moved).astype(np.int64))


class FakeGrid(Grid):
    """A grid to which the numbers that the file holds are rounded in each pass, by a ``QuantizeLinear``."""

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers, which are stored as they are."""
        return stored

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers, which are stored as they are."""
        return values


@dataclass(frozen=True)
class Source:
    """The ONNX tensor that a parameter or buffer was read from, of the shape ``shape`` (``()`` for a scalar).

    ``steps`` lead from the numbers in the file to those that torch has, which are converted to its dtype at last.
    With a :class:`Grid` among them the ONNX tensor holds integers, which a ``DequantizeLinear`` turns into numbers, or
    with a :class:`FakeGrid` the numbers before they are rounded.
    """

    key: TensorKey
    shape: tuple[int, ...]
    steps: tuple[Step, ...] = ()

    @property
    def grid(self) -> Grid | None:
        """What turns stored integers into numbers."""
        return next((step for step in self.steps if isinstance(step, Grid)), None)

    def rescaled(self, scale: NDArray[Any]) -> Source:
        """Return it on a grid of another scale, which is one number or has one for each entry of the grid's."""
        grid = self.grid
        assert grid is not None
        scale = np.broadcast_to(scale.reshape(-1), grid.scale.size).reshape(grid.scale.shape)
        return replace(self, steps=tuple(replace(s, scale=scale) if s is grid else s for s in self.steps))

    def then(self, step: Step) -> Source:
        """Return it with one more step, by which a change of layout is taken together with one just before."""
        steps, last = self.steps, self.steps[-1] if self.steps else None
        if isinstance(step, Permuted) and isinstance(last, Permuted):
            steps, step = steps[:-1], Permuted(tuple(last.order[dim] for dim in step.order))
        if isinstance(step, Reshaped) and isinstance(last, Reshaped):
            steps, step = steps[:-1], Reshaped(last.before, step.after)
        stays = isinstance(step, Permuted) and step.order == tuple(range(len(step.order)))
        stays |= isinstance(step, Reshaped) and step.before == step.after
        return replace(self, steps=steps if stays else (*steps, step))

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return what the graph makes of the numbers ``stored`` of the ONNX tensor."""
        return reduce(lambda values, step: step.values(values), self.steps, stored)

    def to_onnx(self, tensor: Tensor) -> NDArray[Any]:
        """Return what the ONNX tensor must hold for torch to have ``tensor``, in its shape, not yet in its dtype.

        Raises :class:`InputError` when its size is not that which the ONNX tensor gives.
        """
        with suppress(ValueError):  # which numpy raises for another number of dimensions
            if tensor.numel() == self._entries:
                return self._stored(_array(tensor))
        raise InputError(
            f"a tensor of shape {list(tensor.shape)} does not fit {self.key} "
            f"of shape {list(self.shape)}; the layer's size must stay as it was in the file"
        )

    def changed(self, stored: NDArray[Any], tensor: Tensor) -> NDArray[Any] | None:
        """Return :meth:`to_onnx` for a tensor that was read from ``stored``; ``None`` where that would be the same.

        An entry that has not changed keeps its number, which some steps there and back would round to another.
        """
        new, values, held = self.to_onnx(tensor), _array(tensor), self._held(stored, tensor)
        if np.array_equal(held, values, equal_nan=True):
            return None
        return np.where(self._stored(held) == new, stored.astype(np.result_type(stored, new)), new)

    def levels(self, stored: NDArray[Any], tensor: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the levels, also beyond the ends, of a tensor on a grid: as it was read from ``stored``, and as it is.

        Raises :class:`InputError` as :meth:`to_onnx`.
        """
        grid = self.grid
        assert grid is not None
        self.to_onnx(tensor)  # raises where it does not fit
        behind = self.steps[self.steps.index(grid) + 1 :]
        held, values = self._held(stored, tensor), _array(tensor)
        return grid.nearest(_back(held, behind)), grid.nearest(_back(values, behind))

    def from_grid(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return numbers of a grid in the layout of torch."""
        assert self.grid is not None
        return reduce(lambda v, step: step.values(v), self.steps[self.steps.index(self.grid) + 1 :], values)

    @property
    def _entries(self) -> int:
        packed = next((step for step in self.steps if isinstance(step, Unpacked)), None)
        return prod(self.shape) if packed is None else packed.shape[0] * packed.count

    def _held(self, stored: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
        """Return what was read from ``stored``, as ``tensor`` holds it."""
        values = _array(tensor)
        with np.errstate(over="ignore"):
            return self.values(stored).astype(values.dtype).reshape(values.shape)

    def _stored(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(_back(values, self.steps)).reshape(self.shape)


def _back(values: NDArray[Any], steps: tuple[Step, ...]) -> NDArray[Any]:
    return reduce(lambda values, step: step.stored(values), reversed(steps), values)


def _array(tensor: Tensor) -> NDArray[Any]:
    import torch  # comparing two files does without

    value = tensor.detach().cpu()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


@dataclass(frozen=True)
class Provenance:
    """The file behind an imported model.

    ``payload`` is the content of the ``.onnx`` file, byte for byte. ``external`` holds the files in which it keeps
    tensors outside itself: location as written in the model -> content.

    ``tensors`` maps names of ``state_dict()`` to their :class:`Source`. Several names may have one source (a weight
    that the file uses twice); they hold one value and must still when written back. A tensor that is missing was
    computed at import from others, or exists in torch only (``num_batches_tracked``): the file has no place for it, and
    such a parameter does not require a gradient.

    ``inputs`` and ``outputs`` are the names of what the model takes and returns. Where it was imported as a part of the
    graph, ``partial``, these outputs are values within it, and what lies behind them is in ``payload`` alone.

    ``scales`` are the places of those that follow a weight, by its name in ``tensors``; ``None``: all scales are kept.
    """

    path: Path | None
    payload: bytes
    tensors: Mapping[str, Source]
    external: Mapping[str, bytes] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    partial: bool = False
    scales: Mapping[str, OwnScale] | None = None

    def new_scales(self, module: nn.Module) -> dict[str, tuple[NDArray[Any], TensorKey | None]]:
        """Return the scales that are no longer those of the file, and where they go, by the names of the tensors whose
        grids they are of. That of a bias may have no place: its operator implies it.
        """
        found = dict[str, tuple[NDArray[Any], TensorKey | None]]()
        for name, place in (self.scales or {}).items():
            owner = name.rpartition(".")[0]
            layer: Any = module.get_submodule(owner)
            for own, tensor in layer.scales().items():
                scale, grid = _array(tensor), self.tensors[f"{owner}.{own}"].grid
                if grid is not None and (scale.reshape(-1) != np.reshape(grid.scale, -1)).any():
                    found[f"{owner}.{own}"] = scale, place.key if own == "weight" else place.bias
        return found
