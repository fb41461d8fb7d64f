"""Finds the layers of a model. Every convolution is answered for: it is a site, or it carries a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from reparam_kit.algebra import LAYERS, Expanded, Layer, each, geometry, torch_class
from reparam_kit.inputs import Inputs
from reparam_kit.sites.find_flow import observe
from reparam_kit.sites.find_fx import trace
from reparam_kit.sites.flow import Flow
from reparam_kit.sites.refusals import (
    Holders,
    holders,
    keepers,
    no_branch_norms,
    no_restored_norm,
    no_shift_in_bias,
    no_shift_in_norm,
    not_a_sum,
)
from reparam_kit.sites.site import Site

__all__ = ["Site", "inspect"]

_NAMES = {kind.__name__ for kind in vars(nn).values() if isinstance(kind, type) and issubclass(kind, LAYERS)}


def inspect(model: nn.Module, example_inputs: Inputs | None = None) -> list[Site]:
    """Return every convolution and linear layer of ``model``, in the order of its module tree, functional ones last.

    The model is symbolically traced, run once where example inputs are given, and otherwise left alone: parameters,
    buffers, attributes, modes and random state stay as they are. Where both ways give an answer, ``calls`` is what
    the run showed and ``batch_norm`` what both claim. A model that cannot be traced, and is not run, still has its
    layers found, with both unknown. A model with lazy modules is not run, since that would give them their shapes.

    Args:
        model: any module.
        example_inputs: a tensor, or a sequence of the arguments of the model's forward. What the model decides by the
            values of its inputs is judged by these.

    Raises:
        InputError: the model does not run on the example inputs.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8))
    >>> [(site.name, site.kind, site.batch_norm) for site in inspect(net)]
    [('0', 'Conv2d', '1'), ('2', 'Conv2d', None)]
    """
    traced = trace(model)
    flow = traced if isinstance(traced, Flow) else None
    if example_inputs is not None and not any(is_lazy(parameter) for parameter in model.parameters()):
        flow = _agreed(observe(model, example_inputs), flow)
    names = {module: name for name, module in model.named_modules()}
    expanded = {module.base: names[module] for module in names if isinstance(module, Expanded)}
    held, kept_in = holders(model), keepers(model) if flow is None else {}
    frozen = getattr(model, "meta", {}).get("frozen", {})
    sites = []
    for module, name in names.items():
        if module in expanded:
            reason = "it is expanded already"
            kind = torch_class(module).__name__
            sites.append(
                Site(expanded[module], kind, reason=reason, batch_reason=reason, restore_reason=reason)
            )
        elif isinstance(module, LAYERS):
            refused = not_a_sum(module, name, flow, traced, held, kept_in, frozen)
            sites.append(_describe(module, names, flow, refused, held))
        elif isinstance(module, torch.jit.ScriptModule) and module.original_name in _NAMES:
            sites.append(Site(name, module.original_name, reason="TorchScript: its code is fixed"))
    return sites + list(_functional(flow)) if flow is not None else sites


def _agreed(run: Flow, traced: Flow | None) -> Flow:
    """Return what the run showed, without BatchNorms that the trace does not claim, and with all that either found
    read.
    """
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


def _describe(
    module: Layer, names: dict[nn.Module, str], flow: Flow | None, reason: str | None, held: Holders
) -> Site:
    name, norm = names[module], None if flow is None else flow.batch_norms.get(module)
    site = Site(
        name=name,
        kind=torch_class(module).__name__,
        geometry=geometry(module),
        stride=each(module, "stride") if isinstance(module, _ConvNd) else (),
        dilation=each(module, "dilation") if isinstance(module, _ConvNd) else (),
        bias=module.bias is not None,
        calls=None if flow is None else flow.calls[module],
        batch_norm=None if norm is None else names[norm],
        reason=reason,
        positions=None if flow is None or flow.positions is None else flow.positions[module],
        macs=None if flow is None or flow.macs is None else flow.macs[module],
    )
    if reason is not None:
        return replace(site, batch_reason=reason, restore_reason=reason)
    batch_reason, shift_into = _shift(module, name, norm, site, flow, held)
    restore_reason = no_restored_norm(module, name, site.batch_norm, held)
    return replace(site, batch_reason=batch_reason, restore_reason=restore_reason, shift_into=shift_into)


def _shift(
    layer: Layer, name: str, norm: _BatchNorm | None, site: Site, flow: Flow | None, held: Holders
) -> tuple[str | None, str | None]:
    """Return why ``layer`` cannot have branches with BatchNorms, and which BatchNorm takes up their shift if no
    bias does.
    """
    if reason := no_branch_norms(layer):
        return reason, None
    no_bias = no_shift_in_bias(layer, name, held)
    if no_bias is None:
        return None, None
    if flow is None:
        return f"{no_bias}, and tracing does not tell whether a BatchNorm can: give example inputs", None
    if norm is None or site.batch_norm is None:
        if not site.bias:
            return "neither a bias nor a BatchNorm of its own to take up the branches' shift", None
        return f"{no_bias}, and no BatchNorm of its own takes up the branches' shift", None
    no_norm = no_shift_in_norm(norm, site.batch_norm, flow, held)
    if no_norm is None:
        return None, site.batch_norm
    return f"{no_bias}, nor can its {site.batch_norm} take it up: {no_norm}", None
