"""A site: one layer of a model, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from reparam_kit.algebra import Geometry


@dataclass(frozen=True)
class Site:
    """One convolution or linear layer, found by its name in the model's module tree.

    Attributes:
        name: path of the module in the model; of a functional convolution, its function and running number.
        kind: the class of torch.nn that it is or derives from; "functional" where it is no module.
        geometry: of the kernel that the layer stands for; None where it has none that could be expanded.
        stride: in pixels, one number a dimension; empty for a linear layer, as is ``dilation``.
        dilation: in pixels.
        bias: whether it has one.
        calls: how often the forward pass runs it; None where that is not known.
        batch_norm: name of the BatchNorm that its output alone feeds; None where there is none, or none is known.
        reason: why it cannot be expanded; None: it can.
        batch_reason: why its branches cannot have BatchNorms (``norm="batch"``); None: they can.
        restore_reason: why ``restore_bn`` cannot give it a BatchNorm; None: it can, if it is a convolution.
        shift_into: name of the BatchNorm that takes up the shift of branches with BatchNorms; None: its bias does.
        positions: positions of its output times batch, over all calls; None where no example inputs were given.
        macs: its multiply-accumulates for the example inputs, over all calls; None where none were given.
    """

    name: str
    kind: str
    geometry: Geometry | None = None
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    bias: bool = False
    calls: int | None = None
    batch_norm: str | None = None
    reason: str | None = None
    batch_reason: str | None = None
    restore_reason: str | None = None
    shift_into: str | None = None
    positions: int | None = None
    macs: int | None = None

    @property
    def parameters(self) -> int:
        """Number of weights in the kernel."""
        return 0 if self.geometry is None else prod(self.geometry.weight_shape)
