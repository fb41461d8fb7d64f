"""The module that stands in for an expanded convolution while it is trained."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reparam_kit.algebra.branch import Branch, Norm, fit
from reparam_kit.algebra.expression import Block
from reparam_kit.algebra.kernel import Kernel
from reparam_kit.algebra.layers import Layer, geometry, grid, to_kernel, to_weight
from reparam_kit.substitution import StandIn


class Expanded(StandIn):
    """``base`` (the deployed layer, with its class, hooks and attributes) plus branches that start at zero.

    With ``norm="scale"`` or ``"none"`` the sum is multiplied out before each call and ``base`` runs once with that
    weight, exact in train and eval mode. With ``"batch"`` each branch is convolved: the input is padded once, in the
    site's own mode, and every branch runs unpadded on it at its own tap offset, so that a shift inside a chain
    reaches the border too. Attributes that this class lacks are those of ``base``.

    ``site`` is the name of the layer in the model that was expanded. ``shift_into`` names the BatchNorm there
    that takes up the branches' shift at folding where ``base`` has no bias.
    """

    HELD = "base"

    base: Layer

    def __init__(self, base: Layer, block: Block, norm: Norm, site: str, shift_into: str | None) -> None:
        super().__init__()
        self.base = base
        self.block = str(block)
        self.norm = norm
        self.site = site
        self.shift_into = shift_into
        self.taps = geometry(base).taps
        chains, _ = fit(block, geometry(base), norm)
        deployed = to_kernel(base, base.weight.detach()).weight
        branches = nn.ModuleList(Branch(chain, norm, deployed) for chain in chains)
        self.branches = cast("Collection[Branch]", branches)
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The multiplied-out weight, differentiable, of the shape and dtype of ``base.weight``."""
        return to_weight(self.base, self.multiply_out())

    def multiply_out(self, dtype: torch.dtype | None = None) -> Kernel:
        """The sum of all branches as one kernel, in ``dtype`` (default: the weight's own)."""
        with torch.autocast(self.base.weight.device.type, enabled=False):
            deployed = to_kernel(self.base, self.base.weight.to(dtype))
            return deployed.plus([branch.kernel(dtype) for branch in self.branches])

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.norm != "batch":
            out: Tensor = functional_call(self.base, {"weight": self.weight}, args, kwargs)
            return out
        out = self.base(*args, **kwargs)
        padded, stride, dilation = grid(self.base, args[0], out)
        for branch in self.branches:
            window = _window(padded, self.taps, branch.taps, stride, dilation)
            out = out + branch(window, stride, dilation).reshape(out.shape)
        return out

    def fold_into(self, plain: Layer) -> Tensor | None:
        """Write the sum, computed in float64 and rounded once, into ``plain``, a copy of ``base``.

        Returns what ``plain`` has no bias to hold: a shift ``[O]``, float64, of its output (None: nothing).
        """
        with torch.no_grad():
            total = self.multiply_out(torch.float64)
            plain.weight.copy_(to_weight(plain, total))
            if total.bias is None or plain.bias is None:
                return total.bias
            plain.bias.copy_(plain.bias.double() + total.bias)
        return None

    def fuse(self) -> Layer:
        """The folded layer, for ``timm.utils.reparameterize_model``, which asks each module for it.

        It folds one module at a time and so cannot reach the BatchNorm behind: a shift that ``rk.fold`` would put
        there becomes a bias, which the deployed layer did not have.
        """
        plain = copy.deepcopy(self.base)
        shift = self.fold_into(plain)
        if shift is not None:
            plain.bias = nn.Parameter(shift.to(plain.weight))
        return plain


def _window(
    padded: Tensor,
    site: tuple[int, ...],
    taps: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """The part of the padded input that a kernel of ``taps`` sees at the centre of a ``site`` of taps.

    What the last stride does not reach is left out: given it, oneDNN writes past the end of the gradient of a
    kernel of one tap (torch 2.13, channels_last, stride 2, few channels).
    """
    for axis, (have, room, step, rate) in enumerate(zip(taps, site, stride, dilation, strict=True), start=2):
        steps = (padded.shape[axis] - (room - 1) * rate - 1) // step
        length = steps * step + (have - 1) * rate + 1
        padded = padded.narrow(axis, (room - have) // 2 * rate, length)
    return padded
