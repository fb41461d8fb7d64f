"""Numbers that are quantised as they come, by the least and the greatest of them, and layers that do so themselves.

A quantiser writes ``DynamicQuantizeLinear``, ``ConvInteger`` or ``MatMulInteger``, ``Cast`` and ``Mul``, of which a
training step would move each result through memory, forward and backward. Where nothing else reads what is between, a
layer stands for the four: in eval mode it computes what they do, and in train mode, with a gradient that passes as if
nothing were rounded, the same with the numbers that the levels stand for.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from reparam_kit.onnx.importer.accumulate import (
    Accumulating,
    AccumulatingConv1d,
    AccumulatingConv2d,
    AccumulatingConv3d,
    AccumulatingLinear,
    rescaled,
)
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.fake import fake_quantised
from reparam_kit.onnx.importer.levels import Scaled, as_numbers, at_level, divisor
from reparam_kit.onnx.importer.rules import along, elementwise
from reparam_kit.onnx.importer.values import as_dtype


def dynamic_settings(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the scale of 256 levels for the numbers along ``dims``, zero among them, and the level of zero."""
    x = x.detach()  # as the levels stand for x, whatever their scale is, it takes no gradient
    least, greatest = x.aminmax() if len(dims) == x.dim() else (x.amin(dims), x.amax(dims))
    least, greatest = least.clamp_max(0), greatest.clamp_min(0)
    scale = torch.where(greatest == least, 1, (greatest - least) / 255)
    return scale, torch.round((0 - least / divisor(scale)).clamp(0, 255)).to(torch.uint8)


def dynamic_levels(x: Tensor, scale: Tensor, zero: Tensor, less: bool = False) -> Tensor:
    """Return the nearest of 256 levels for each of ``x``, or that ``less`` the zero."""
    at = Scaled(x, torch.div, divisor(scale))
    return at_level(at, zero, torch.uint8, saturates=False, less=less)


class Dynamic(Accumulating):
    """A layer of integers that takes and gives numbers; ``factor``: what the levels of its weight stand for."""

    factor: Tensor

    def forward(self, x: Tensor) -> Any:
        """Return numbers, in the dtype of ``x``."""
        scale, zero = dynamic_settings(x, tuple(range(x.dim())))
        if self.training:
            return super(Accumulating, self).forward(fake_quantised(x, scale, zero, torch.uint8, False))
        sums = super().forward(dynamic_levels(x, scale, zero, less=True))
        return sums.to(x.dtype) * (scale * self.factor)


class DynamicConv1d(Dynamic, AccumulatingConv1d):
    """Of integers."""


class DynamicConv2d(Dynamic, AccumulatingConv2d):
    """Of integers."""


class DynamicConv3d(Dynamic, AccumulatingConv3d):
    """Of integers."""


class DynamicLinear(Dynamic, AccumulatingLinear):
    """Of integers."""


_DYNAMIC: dict[type[nn.Module], type[Dynamic]] = {kind.__mro__[2]: kind for kind in Dynamic.__subclasses__()}


def join_dynamic(graph: fx.Graph, root: nn.Module) -> None:
    """Let a layer stand for the nodes that quantise, sum up and rescale, where nothing else reads what is between."""
    for node in list(graph.nodes):
        found = _chain(node, root)
        if found is None:
            continue
        layer, x, factor = found
        module = root.get_submodule(str(layer.target))
        module.__class__ = _DYNAMIC[type(module)]
        module.register_buffer("factor", factor, persistent=False)
        with graph.inserting_before(node):
            joined = graph.call_module(str(layer.target), (x,))
        joined.meta = dict(node.meta)
        node.replace_all_uses_with(joined)


def _chain(node: fx.Node, root: nn.Module) -> tuple[fx.Node, fx.Node, Tensor] | None:
    """Return the layer whose sums ``node`` rescales, what is quantised for it, and what its own levels stand for."""
    if node.target not in (torch.mul, rescaled):
        return None
    sums, factor = node.args[:2]
    while isinstance(sums, fx.Node) and sums.target in (as_dtype, as_numbers) and len(sums.users) == 1:
        if sums.target is as_dtype and sums.args[1] is not torch.float32:
            return None  # which rounds the sums
        sums = sums.args[0]
    if not isinstance(sums, fx.Node) or sums.op != "call_module" or len(sums.users) != 1:
        return None
    levels = sums.args[0]
    if type(root.get_submodule(str(sums.target))) not in _DYNAMIC or not isinstance(levels, fx.Node):
        return None
    if levels.target is not dynamic_levels or levels.args[3:] != (True,):
        return None
    x, scale, zero = levels.args[:3]
    known = _constant(factor, scale, root)
    whole = all(
        isinstance(setting, fx.Node)
        and setting.target is operator.getitem
        and isinstance(made := setting.args[0], fx.Node)
        and made.target is dynamic_settings
        and made.args[0] is x
        for setting in (scale, zero)
    )
    layer = root.get_submodule(str(sums.target))
    own = layer.get_buffer("weight_scale")
    if not whole or known is None or not isinstance(x, fx.Node) or not _is_of_outputs(known, layer):
        return None
    return (sums, x, known) if known.reshape(-1).equal(own.reshape(-1)) else None


def _is_of_outputs(factor: Tensor, layer: nn.Module) -> bool:
    """Return whether a factor of the results is one for all, or one for each output, and adds no dimension to them."""
    dims = layer.weight.dim() - 2 if isinstance(layer.weight, Tensor) else 0
    if factor.numel() == 1:
        return factor.dim() <= (dims + 2 if dims else 1)
    each = (factor.numel(), *[1] * dims)
    return tuple(factor.shape) in ([each, (1, *each)] if dims else [each])


def _constant(factor: object, scale: object, root: nn.Module) -> Tensor | None:
    """Return what ``scale`` is multiplied by to be ``factor``."""
    if not isinstance(factor, fx.Node) or factor.target is not torch.mul or scale not in factor.args:
        return None
    [other] = [value for value in factor.args if value is not scale] or [None]
    if not isinstance(other, fx.Node) or other.op != "get_attr":
        return None
    module, _, name = str(other.target).rpartition(".")
    tensor: Tensor = getattr(root.get_submodule(module), name)
    return None if isinstance(tensor, nn.Parameter) else tensor


rule(along(1), dynamic_settings)
rule(elementwise, dynamic_levels)
