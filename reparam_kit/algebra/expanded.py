"""The module that stands in for an expanded convolution while it is trained."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd

from reparam_kit.algebra.branch import Branch, Norm, fit
from reparam_kit.algebra.expression import Block
from reparam_kit.algebra.kernel import Geometry, Kernel


class Expanded(nn.Module):
    """``base`` (the deployed convolution, with its class, hooks and attributes) plus branches that start at zero.

    With ``norm="scale"`` or ``"none"`` the sum is multiplied out before each call and ``base`` runs once with that
    weight, exact in train and eval mode. With ``"batch"`` each branch is convolved: the input is padded once, in the
    site's own mode, and every branch runs unpadded on it at its own tap offset, so that a shift inside a chain
    reaches the border too. Attributes that this class lacks are those of ``base``.

    ``site`` is the name of the convolution in the model that was expanded. ``shift_into`` names the BatchNorm there
    that takes up the branches' shift at folding where ``base`` has no bias.
    """

    base: _ConvNd

    def __init__(self, base: _ConvNd, block: Block, norm: Norm, site: str, shift_into: str | None) -> None:
        super().__init__()
        self.base = base
        self.block = str(block)
        self.norm = norm
        self.site = site
        self.shift_into = shift_into
        geometry = Geometry(base.in_channels, base.out_channels, base.kernel_size, base.groups)
        chains, _ = fit(block, geometry, norm)
        branches = nn.ModuleList(Branch(chain, norm, base.weight) for chain in chains)
        self.branches = cast("Collection[Branch]", branches)
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The multiplied-out weight, differentiable, of the shape and dtype of ``base.weight``."""
        return self.multiply_out().weight

    def multiply_out(self, dtype: torch.dtype | None = None) -> Kernel:
        """The sum of all branches as one kernel, in ``dtype`` (default: the weight's own)."""
        with torch.autocast(self.base.weight.device.type, enabled=False):
            total = Kernel(self.base.weight.to(dtype), self.base.groups)
            for branch in self.branches:
                total = total + branch.kernel(dtype).embed(total.taps)
        return total

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.norm != "batch":
            out: Tensor = functional_call(self.base, {"weight": self.weight}, args, kwargs)
            return out
        (x,) = args
        base = self.base
        mode = "constant" if base.padding_mode == "zeros" else base.padding_mode
        padded = F.pad(x, base._reversed_padding_repeated_twice, mode=mode)
        out = base(x)
        for branch in self.branches:
            out = out + branch(_crop(padded, base, branch.taps), base.stride, base.dilation)
        return out

    def fold_into(self, plain: _ConvNd) -> Tensor | None:
        """Write the sum, computed in float64 and rounded once, into ``plain``, a copy of ``base``.

        Returns what ``plain`` has no bias to hold: a shift ``[O]``, float64, of its output (None: nothing).
        """
        with torch.no_grad():
            total = self.multiply_out(torch.float64)
            plain.weight.copy_(total.weight)
            if total.bias is None or plain.bias is None:
                return total.bias
            plain.bias.copy_(plain.bias.double() + total.bias)
        return None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base":
                raise
            return getattr(self.base, name)


def _crop(padded: Tensor, base: _ConvNd, taps: tuple[int, ...]) -> Tensor:
    """The part of the padded input that a kernel of ``taps`` sees at the centre of the site's kernel."""
    for axis, (have, room, step) in enumerate(
        zip(taps, base.kernel_size, base.dilation, strict=True), start=2
    ):
        before = (room - have) // 2
        length = padded.shape[axis] - (room - have) * step
        padded = padded.narrow(axis, before * step, length)
    return padded
