"""The module that stands in for an expanded convolution while it is trained."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from reparam_kit.algebra.branch import NORMS, Branch, fit
from reparam_kit.algebra.composition import Composed, Parts, Place
from reparam_kit.algebra.computed import computed
from reparam_kit.algebra.expression import Block
from reparam_kit.algebra.foldable import Foldable, overwrite
from reparam_kit.algebra.kernel import Kernel
from reparam_kit.algebra.layers import Layer, geometry, grid, to_kernel, to_weight, weight_shape
from reparam_kit.algebra.passes import kernel_of
from reparam_kit.algebra.stock import has_hooks, has_own_forward
from reparam_kit.errors import InputError

_COMPUTED = (
    "its weight has been put under a norm, a mask or a parametrization, of which the branches know nothing; "
    "do that before rk.expand, and rk.bake, or after rk.fold"
)


class Expanded(Foldable, Composed):
    """``base`` (the deployed layer, with its class, hooks and attributes) plus branches that start at zero.

    With ``norm="scale"`` or ``"none"`` the sum is multiplied out before each call and ``base`` runs once with that
    weight, exact in train and eval mode. With ``"batch"`` each branch is convolved: the input is padded once, in the
    site's own mode, and every branch runs unpadded on it at its own tap offset, so that a shift inside a chain
    reaches the border too. Attributes that this class lacks are those of ``base``.

    ``site`` is the name of the layer in the model that was expanded. ``shift_into`` names the BatchNorm there that
    takes up the branches' shift at folding, where the bias of ``base`` cannot.
    """

    HELD = "base"

    def __init__(self, base: Layer, block: Block, norm: str, site: str, shift_into: str | None) -> None:
        super().__init__()
        self.block = str(block)
        self.norm = norm
        self.site = site
        self.shift_into = shift_into
        self.taps = geometry(base).taps
        self.base = base  # from here on, attributes that are not there yet are its own
        chains, _ = fit(block, geometry(base), norm)
        deployed = to_kernel(base, base.weight.detach()).weight
        branches = nn.ModuleList(NORMS[norm](chain, deployed) for chain in chains)
        self.branches = cast("Collection[Branch]", branches)
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The multiplied-out weight, differentiable, of the shape and dtype of ``base.weight``.

        Writing into it raises InputError, and so does the use of its values where they are not all of the layer,
        since the branches have a shift that only ``rk.fold`` can put into the BatchNorm behind.
        """
        unreadable = None
        if self.shifts and self.shift_into is not None:
            unreadable = (
                "its weight is not all of it, for its branches have a shift, which goes into the BatchNorm "
                f"{self.shift_into} when the model is folded: call rk.fold first"
            )
        return computed(self._weight(), self.site, unreadable)

    @property
    def bias(self) -> Tensor | None:
        """The bias in eval mode: that of ``base``, and with it the shift of the branches where it takes that up."""
        bias = self.base.bias
        if not self.shifts or self.shift_into is not None or bias is None:
            return bias
        shift = self.multiply_out().bias
        return bias if shift is None else computed(bias + shift, self.site)

    @property
    def shifts(self) -> bool:
        """Whether its branches have a shift, which ``base`` or ``shift_into`` takes up at folding."""
        return NORMS[self.norm].shifts

    def _weight(self) -> Tensor:
        return to_weight(self.base, self.multiply_out())

    def multiply_out(self, dtype: torch.dtype | None = None) -> Kernel:
        """Return the sum of all branches as one kernel, in ``dtype`` (default: the weight's own)."""
        with torch.autocast(self.base.weight.device.type, enabled=False):
            deployed = to_kernel(self.base, self.base.weight.to(dtype))
            return deployed.plus([branch.kernel(dtype) for branch in self.branches])

    def owned(self) -> list[Tensor]:
        modules = (self.base, *self.branches)
        return [own for module in modules for own in module._parameters.values() if own is not None]

    def parts(self) -> Parts | None:
        weight = self.base._parameters.get("weight")
        if weight is None or NORMS[self.norm].runs or weight.shape != weight_shape(self.base):
            return None
        deployed = to_kernel(self.base, weight)
        if deployed.weight is not weight:  # a transposed convolution's
            return None
        chains: list[tuple[Place, ...]] = []
        tensors: list[Tensor] = [weight]
        for branch in self.branches:
            found = branch.places()
            if found is None:
                return None
            chains.append(found[0])
            tensors += found[1]
        return Parts.of(deployed.groups, chains, tensors)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.base._parameters.get("weight") is None:
            raise InputError(f"{self.site}: {_COMPUTED}")
        if _is_symbol(args):
            raise self.refused("torch.fx cannot trace into a sum of branches")
        if not NORMS[self.norm].runs:
            if not torch.compiler.is_compiling() and torch._C._is_tracing():
                raise self.refused("torch.jit cannot trace a sum of branches")
            weight = kernel_of(self)
            weight = self._weight() if weight is None else weight
            out: Tensor = functional_call(self.base, {"weight": weight}, args, kwargs)
            return out
        out = self.base(*args, **kwargs)
        if self.shift_into is not None and out.dim() != len(self.taps) + 2:
            raise InputError(
                f"{self.site}: an output of {out.dim()} dimensions has its channels elsewhere than the BatchNorm "
                f"{self.shift_into} looks for them; take norm='scale'"
            )
        padded, stride, dilation = grid(self.base, args[0] if args else kwargs["input"], out)
        for branch in self.branches:
            window = _window(padded, self.taps, branch.taps, stride, dilation)
            out = out + branch(window, stride, dilation).reshape(out.shape)
        return out

    def changed(self) -> str | None:
        base = self.base
        if base._parameters.get("weight") is None:
            return _COMPUTED
        if "forward" in vars(self) or "forward" in vars(base):
            return "its forward has been replaced: do that before rk.expand, on its class, or after rk.fold"
        if any(getattr(branch, "norm", None) != self.norm for branch in self.branches):
            return f"its branches were not made with norm={self.norm!r}, which it has been given since"
        if not NORMS[self.norm].runs:
            return None
        if has_own_forward(base):
            return "its .base has a forward of its own"
        if has_hooks(base):
            return "its .base, which is only a part of the sum, has hooks: put them on the layer itself"
        if self.shift_into is not None and self._forward_hooks:
            return f"hooks stand between it and the BatchNorm {self.shift_into}, which takes up its shift: remove them"
        if self.shift_into is None and base._parameters.get("bias") is None:
            return "its bias, which takes up the shift of its branches, is gone or computed"
        for branch in self.branches:
            if reason := branch.changed():
                return f"its branches have been changed: {reason}"
        return None

    def fold_into(self, plain: Layer) -> Tensor | None:
        with torch.no_grad():
            total = self.multiply_out(torch.float64)
            overwrite(plain.weight, to_weight(plain, total))
            if total.bias is None or self.shift_into is not None:
                return total.bias
            assert plain.bias is not None
            overwrite(plain.bias, plain.bias.double() + total.bias)
        return None


def _is_symbol(args: Any) -> bool:
    """Return whether ``torch.fx`` traces into a layer. Of one that is the whole model, all arguments are one symbol."""
    return isinstance(args, fx.Proxy) or (len(args) > 0 and isinstance(args[0], fx.Proxy))


def _window(
    padded: Tensor,
    site: tuple[int, ...],
    taps: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """Return the part of the padded input that a kernel of ``taps`` sees at the centre of a ``site`` of taps.

    What the last stride does not reach is left out: given it, oneDNN writes past the end of the gradient of a
    kernel of one tap (torch 2.13, channels_last, stride 2, few channels).
    """
    for axis, (have, room, step, rate) in enumerate(zip(taps, site, stride, dilation, strict=True), start=2):
        steps = (padded.shape[axis] - (room - 1) * rate - 1) // step
        length = steps * step + (have - 1) * rate + 1
        padded = padded.narrow(axis, (room - have) // 2 * rate, length)
    return padded
