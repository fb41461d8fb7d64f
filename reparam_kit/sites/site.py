"""A site: one convolution of a model, and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass

from reparam_kit.algebra import Geometry


@dataclass(frozen=True)
class Site:
    """One convolution, found by its name in the model's module tree.

    ``reason`` says why it cannot be expanded; None: it can. ``calls`` counts the places where the forward pass runs
    it and ``batch_norm`` names the BatchNorm that its output alone feeds; both are None where the model could not be
    traced (``batch_norm`` also where there is no such BatchNorm).
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

    @property
    def parameters(self) -> int:
        """Number of weights in the kernel."""
        if self.geometry is None:
            return 0
        total = 1
        for extent in self.geometry.weight_shape:
            total *= extent
        return total
