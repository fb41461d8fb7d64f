"""Layers whose weights the file stores as integers, or rounds to such: each call takes the numbers that the file uses.

The parameter itself stays a floating-point number, to which branches are added and which the optimiser moves. Before
the layer uses it, it goes to the nearest level of the file's grid, by the formula with which it is written
(:meth:`Grid.stored`) or that of the file's ``QuantizeLinear``; the gradient passes as if it did not, and ends beyond
the first and the last level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reparam_kit.onnx.importer.levels import Scaled, divisor, mask_for, settled, straight_through
from reparam_kit.onnx.importer.values import Constant, as_dtype
from reparam_kit.onnx.provenance import FakeGrid, Source

_WIDE = 2**31 - 1
_SLACK = 1 + 1e-6  # for rounding: a number that was put at the edge of the last level is not beyond it
_FINEST = 2.0**-10  # of the file's scale: a weight that vanishes has none


class Reach(NamedTuple):
    """Levels, less the zero, for each scale: the ends, and that of the file's greatest number, with the half level by
    which numbers may be off. Infinite where an end is none, NaN where all are zero.
    """

    low: Tensor
    high: Tensor
    top: Tensor


class Rounded(nn.Module):
    """A layer that rounds its parameters first. ``grids``: what :func:`on_grid` takes for each after scale and zero.

    ``moves`` is the type in which the file stores the scale of the weight, if that follows the weight; else ``None``.
    """

    grids: Mapping[str, tuple[int, int, torch.dtype]]
    moves: torch.dtype | None = None

    def forward(self, *args: Any) -> Any:
        """Return the layer's own forward, with its parameters on their grids."""
        with self.instead(self.on_grids(on_grid, self.scales())):
            return super().forward(*args)

    def scales(self) -> dict[str, Tensor]:
        """Return the scale of each grid: that of the file, or where it follows the weight that of the weight as it is,
        and of the bias in the scale of the sums.
        """
        found = {name: self.get_buffer(f"{name}_scale") for name in self.grids}
        if self.moves is not None:
            old, weight = found["weight"], cast("Tensor", self.weight)
            reach = Reach(*(self.get_buffer(f"weight_{end}") for end in Reach._fields))
            new = found["weight"] = scale_for(weight, old, reach, self.moves)
            if self.has_wide_bias:
                followed = found["bias"].double() * (new.double() / old.double()).flatten()
                found["bias"] = as_dtype(followed.to(old.dtype), self.moves)
        return found

    @property
    def has_wide_bias(self) -> bool:
        """Whether its bias is in integers of 32 bits, which are in the scale of the sums."""
        return "bias" in self.grids and self.grids["bias"][1] == _WIDE

    def on_grids(self, function: Callable[..., Tensor], scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``function`` of each parameter that has a grid, and of the grid with its scale of ``scales``."""
        return {
            name: function(getattr(self, name), scales[name], getattr(self, f"{name}_zero"), *rest)
            for name, rest in self.grids.items()
        }

    @contextmanager
    def instead(self, tensors: Mapping[str, Any]) -> Iterator[None]:
        """Let the layer take ``tensors`` for its parameters of these names."""
        own = self._parameters
        try:
            self._parameters = own | tensors  # type: ignore[operator]
            yield
        finally:
            self._parameters = own


class RoundedConv1d(Rounded, nn.Conv1d):
    """On its grids."""


class RoundedConv2d(Rounded, nn.Conv2d):
    """On its grids."""


class RoundedConv3d(Rounded, nn.Conv3d):
    """On its grids."""


class RoundedConvTranspose1d(Rounded, nn.ConvTranspose1d):
    """On its grids."""


class RoundedConvTranspose2d(Rounded, nn.ConvTranspose2d):
    """On its grids."""


class RoundedConvTranspose3d(Rounded, nn.ConvTranspose3d):
    """On its grids."""


class RoundedLinear(Rounded, nn.Linear):
    """On its grids."""


_ROUNDED = {kind.__mro__[2]: kind for kind in Rounded.__subclasses__()}
ROUNDED_LAYERS = tuple(_ROUNDED)


def with_grids(module: nn.Module, weights: Mapping[str, Constant]) -> nn.Module:
    """Return ``module`` itself, which rounds those of ``weights`` that have a grid, if there are any."""
    grids = {}
    for name, weight in weights.items():
        if weight.source is not None and weight.source.grid is not None:
            scale, zero, *rest = grid_of(weight.source, tuple(getattr(module, name).shape))
            module.register_buffer(f"{name}_scale", scale, persistent=False)
            module.register_buffer(f"{name}_zero", zero, persistent=False)
            grids[name] = cast("tuple[int, int, torch.dtype]", tuple(rest))
    if grids:
        module.__class__ = _ROUNDED.get(type(module), type(module))
        module.grids = grids  # type: ignore[assignment]
    return module


def is_fake(constant: Constant) -> bool:
    """Return whether the file stores the numbers that it rounds."""
    return constant.source is not None and isinstance(constant.source.grid, FakeGrid)


def rounded(constant: Constant) -> Tensor:
    """Return the numbers that the file uses: a constant's own, or those to which it rounds them."""
    if constant.source is None or not is_fake(constant):
        return constant.tensor
    return on_grid(constant.tensor, *grid_of(constant.source, tuple(constant.tensor.shape)))


def grid_of(source: Source, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, int, int, torch.dtype]:
    """Return what :func:`on_grid` takes after a parameter of that ``shape``."""
    grid = source.grid
    assert grid is not None
    settings = [np.asarray(grid.scale), np.asarray(grid.zero).astype(np.float64)]
    if all(setting.size == 1 for setting in settings):
        scale, zero = (torch.from_numpy(setting.reshape(())[None].copy())[0] for setting in settings)
    else:
        scale, zero = (arranged(setting, source, shape) for setting in settings)
    return scale, zero, *grid.ends, getattr(torch, grid.division)


def arranged(setting: NDArray[Any], source: Source, shape: tuple[int, ...]) -> Tensor:
    """Return a setting of the grid in the layout that the parameter has by the steps behind it."""
    grid = source.grid
    assert grid is not None
    at = source.steps.index(grid)
    before, behind = (replace(source, steps=steps) for steps in (source.steps[:at], source.steps[at + 1 :]))
    there = before.values(np.broadcast_to(np.int8(0), source.shape)).shape
    made = torch.from_numpy(
        np.array(behind.values(np.broadcast_to(setting, there)), order="C").reshape(shape)
    )
    for dim in range(
        made.dim()
    ):  # one number for all entries of a dimension is quicker, and broadcasts to them
        one = made.narrow(dim, 0, 1) if made.shape[dim] else made
        made = one if one.expand(made.shape).equal(made) else made
    return made.clone()


def scale_for(weight: Tensor, scale: Tensor, reach: Reach, dtype: torch.dtype) -> Tensor:
    """Return the scale of ``dtype`` for ``weight``, which is ``scale`` as long as this is about right.

    Where an entry is beyond the levels, it is the least that clips none; where all have become smaller, the one that
    has the greatest at its level again. In between it stays, for another one rounds every entry anew.
    """
    dims = [dim for dim in range(weight.dim()) if scale.shape[dim] == 1]
    given = weight.detach().to(scale.dtype)
    least, greatest = given.amin(dims, True), given.amax(dims, True)
    wider = torch.maximum(least / reach.low, greatest / reach.high)
    finer = torch.maximum(-least, greatest) / reach.top
    grown, shrunk = wider > scale * _SLACK, finer < scale / _SLACK
    least_scale = torch.where(grown, wider, torch.maximum(wider, finer).maximum(scale * _FINEST))
    found = as_dtype(least_scale * (1 + torch.finfo(dtype).eps), dtype)  # rounded up, not to clip after all
    return torch.where(grown | shrunk, found, scale)


def on_grid(x: Tensor, scale: Tensor, zero: Tensor, first: int, last: int, division: torch.dtype) -> Tensor:
    """Return what is read back where ``x`` is written; its gradient is that of ``x``, and 0 where a level beyond is
    nearest.

    A weight at the first or last level has a gradient: what it stands for may be rounded to a number just beyond.
    """
    level, inside = _nearest(x, scale, zero, first, last, division)
    return straight_through(level.to(scale.dtype).mul_(scale).to(x.dtype), inside, x)


def levels_on_grid(
    x: Tensor, scale: Tensor, zero: Tensor, first: int, last: int, division: torch.dtype
) -> Tensor:
    """Return the levels that :func:`on_grid` goes to, less the zero, with the gradient of ``x / scale``."""
    level, inside = _nearest(x, scale, zero, first, last, division)
    return straight_through(level.to(x.dtype), inside, Scaled(x, torch.div, divisor(scale.to(x.dtype))))


def _nearest(
    x: Tensor, scale: Tensor, zero: Tensor, first: int, last: int, division: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Return the nearest levels, less the zero, and of what no level beyond the first or the last is nearest."""
    at = (x.detach().to(division) / divisor(scale.to(division))).contiguous()
    level, inside = torch.empty_like(at), mask_for(at) if x.requires_grad else None
    settled(at, zero, first, last, level, inside)
    return level.sub_(zero), inside
