"""Finds the convolutions of a model. Every one is answered for: it is a site, or it carries a reason."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from reparam_kit.algebra import Expanded, Geometry
from reparam_kit.sites.find_fx import Flow, trace
from reparam_kit.sites.site import Site

__all__ = ["Site", "inspect"]


def inspect(model: nn.Module) -> list[Site]:
    """Every convolution of ``model``, in the order of its module tree, functional ones last.

    The model is symbolically traced and otherwise left alone. Where it cannot be traced, convolutions are still
    found, with ``calls`` and ``batch_norm`` unknown.
    """
    flow = trace(model)
    owners = _owners(model)
    names = {module: name for name, module in model.named_modules()}
    expanded = {module.base: names[module] for module in names if isinstance(module, Expanded)}
    sites = [
        Site(expanded[module], type(module).__name__, reason="it is expanded already")
        if module in expanded
        else _describe(module, names, flow, owners)
        for module in names
        if isinstance(module, _ConvNd)
    ]
    if isinstance(flow, Flow):
        sites += [
            Site(name, "functional", reason="functional call: its weight belongs to no convolution module")
            for name in flow.functional
        ]
    return sites


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Names of all parameters, by identity: tied weights have several."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(name, recurse=False):
            owners.setdefault(id(parameter), []).append(key)
    return owners


def _describe(
    module: _ConvNd, names: dict[nn.Module, str], flow: Flow | str, owners: dict[int, list[str]]
) -> Site:
    calls = flow.calls.get(module, 0) if isinstance(flow, Flow) else None
    norm = flow.batch_norms.get(module) if isinstance(flow, Flow) else None
    reason = _refusal(module, names[module], calls, owners)
    return Site(
        name=names[module],
        kind=type(module).__name__,
        geometry=Geometry(module.in_channels, module.out_channels, tuple(module.kernel_size), module.groups),
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        bias=module.bias is not None,
        calls=calls,
        batch_norm=names[norm] if norm is not None else None,
        reason=reason,
    )


def _refusal(module: _ConvNd, name: str, calls: int | None, owners: dict[int, list[str]]) -> str | None:
    """Why the weight of ``module`` cannot be written as a sum, or None."""
    if isinstance(module, _ConvTransposeNd):
        return "transposed convolutions are not expanded"
    if parametrize.is_parametrized(module, "weight") or "weight" not in module._parameters:
        return "its weight is computed by a parametrization; remove that first"
    weight = module.weight
    if isinstance(weight, UninitializedParameter):
        return "lazy module: run the model once first"
    if not weight.is_floating_point():
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}, not floating point"
    if not weight.requires_grad:
        return "frozen: its weight has requires_grad=False"
    if len(owners[id(weight)]) > 1:
        others = ", ".join(owner for owner in owners[id(weight)] if owner != f"{name}.weight")
        return f"its weight is also {others}"
    if calls == 0:
        return "the forward pass never runs it"
    return None
