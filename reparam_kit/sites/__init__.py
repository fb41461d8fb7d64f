"""Finds the layers of a model. Every convolution is answered for: it is a site, or it carries a reason."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import UninitializedParameter, is_lazy
from torch.nn.utils import parametrize

from reparam_kit.algebra import LAYERS, Expanded, Layer, geometry
from reparam_kit.sites.find_flow import Inputs, observe
from reparam_kit.sites.find_fx import trace
from reparam_kit.sites.flow import Flow
from reparam_kit.sites.site import Site

__all__ = ["Site", "inspect"]

_NAMES = {kind.__name__ for kind in vars(nn).values() if isinstance(kind, type) and issubclass(kind, LAYERS)}


def inspect(model: nn.Module, example_inputs: Inputs | None = None) -> list[Site]:
    """Every convolution and linear layer of ``model``, in the order of its module tree, functional ones last.

    The model is symbolically traced, run once where example inputs are given, and otherwise left alone: parameters,
    buffers, attributes, modes and random state stay as they are. Where both ways give an answer, ``calls`` is what
    the run showed and ``batch_norm`` what both claim. A model that cannot be traced, and is not run, still has its
    layers found, with both unknown. A model with lazy modules is not run, since that would give them their shapes.

    Args:
        model: any module.
        example_inputs: a tensor, or a tuple of the arguments of the model's forward. What the model decides by the
            values of its inputs is judged by these.

    Raises:
        InputError: the model does not run on the example inputs.
    """
    traced = trace(model)
    flow = traced if isinstance(traced, Flow) else None
    if example_inputs is not None and not any(is_lazy(parameter) for parameter in model.parameters()):
        flow = _agreed(observe(model, example_inputs), flow)
    names = {module: name for name, module in model.named_modules()}
    expanded = {module.base: names[module] for module in names if isinstance(module, Expanded)}
    holders = _holders(model)
    sites = []
    for module, name in names.items():
        if module in expanded:
            sites.append(Site(expanded[module], _kind(module), reason="it is expanded already"))
        elif isinstance(module, LAYERS):
            sites.append(_describe(module, names, flow, _refusal(module, name, flow, traced, holders)))
        elif isinstance(module, torch.jit.ScriptModule) and module.original_name in _NAMES:
            sites.append(Site(name, module.original_name, reason="TorchScript: its code is fixed"))
    return sites + list(_functional(flow)) if flow is not None else sites


def _agreed(run: Flow, traced: Flow | None) -> Flow:
    """What the run showed, without BatchNorms that the trace does not claim, and with all that either found read."""
    if traced is not None:
        run.batch_norms = {
            layer: norm for layer, norm in run.batch_norms.items() if traced.batch_norms.get(layer) is norm
        }
        run.reads |= traced.reads
        run.functional = traced.functional | run.functional
    return run


def _functional(flow: Flow) -> Iterator[Site]:
    for name, weight in flow.functional.items():
        whose = "computed" if weight is None else f"the parameter {weight}"
        yield Site(
            name,
            "functional",
            reason=f"functional call: its weight is {whose}, outside the forward of a layer",
        )


def _holders(model: nn.Module) -> dict[int, list[str]]:
    """Names of all parameters, by identity: tied weights have several."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(name, recurse=False):
            holders.setdefault(id(parameter), []).append(key)
    return holders


def _kind(module: Layer) -> str:
    return next(
        kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules")
    )


def _describe(module: Layer, names: dict[nn.Module, str], flow: Flow | None, reason: str | None) -> Site:
    norm = None if flow is None else flow.batch_norms.get(module)
    return Site(
        name=names[module],
        kind=_kind(module),
        geometry=geometry(module),
        stride=tuple(module.stride) if isinstance(module, _ConvNd) else (),
        dilation=tuple(module.dilation) if isinstance(module, _ConvNd) else (),
        bias=module.bias is not None,
        calls=None if flow is None else flow.calls[module],
        batch_norm=None if norm is None else names[norm],
        reason=reason,
        positions=None if flow is None or flow.positions is None else flow.positions[module],
        macs=None if flow is None or flow.macs is None else flow.macs[module],
    )


def _refusal(
    module: Layer, name: str, flow: Flow | None, traced: Flow | str, holders: dict[int, list[str]]
) -> str | None:
    """Why the weight of ``module`` cannot be written as a sum, or None."""
    if parametrize.is_parametrized(module, "weight") or "weight" not in module._parameters:
        return "its weight is computed by a parametrization; make it plain first: rk.bake(model)"
    weight = module.weight
    if isinstance(weight, UninitializedParameter):
        return "lazy module: run the model once first"
    if not weight.is_floating_point():
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}, not floating point"
    if not weight.requires_grad:
        return "frozen: its weight has requires_grad=False"
    if len(holders[id(weight)]) > 1:
        others = ", ".join(holder for holder in holders[id(weight)] if holder != f"{name}.weight")
        return f"its weight is also {others}"
    if isinstance(module, NonDynamicallyQuantizableLinear) or (flow is not None and module in flow.reads):
        return "its weight or bias is read outside its own forward"
    if flow is not None and flow.calls[module] == 0:
        seen = isinstance(traced, Flow) and traced.calls[module] == 0
        return f"the {'forward pass never runs' if seen else 'example inputs never run'} it"
    return None
