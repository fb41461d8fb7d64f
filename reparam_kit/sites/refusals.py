"""The one place that decides what a layer may carry: a sum of branches, branches with BatchNorms, a BatchNorm put back.

Each function gives the reason, in words, why it may not, or None.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from reparam_kit.algebra import Layer, has_hooks, has_own_forward, not_affine, weight_shape
from reparam_kit.sites.flow import Flow
from reparam_kit.substitution import kept

Place = tuple[int, object]
Holders = dict[Place, list[str]]


def holders(model: nn.Module) -> Holders:
    """Return the names of all parameters and buffers, by their place in memory: those that are shared have several."""
    found: Holders = {}
    for path, module in model.named_modules():
        for name, tensor in chain(module._parameters.items(), module._buffers.items()):
            if tensor is not None:
                found.setdefault(_place(tensor), []).append(f"{path}.{name}" if path else name)
    return found


def keepers(model: nn.Module) -> Holders:
    """Return the names of the attributes and lists that hold tensors, by their place in memory."""
    found: Holders = {}
    for path, module in model.named_modules():
        for name, tensor in kept(module):
            if name != "_buffers":
                found.setdefault(_place(tensor), []).append(f"{path}.{name}" if path else name)
    return found


def shared(layer: nn.Module, path: str, name: str, held: Holders) -> str:
    """Under which other names parameter or buffer ``name`` of ``layer`` stands, in words; empty where there is none."""
    own = f"{path}.{name}" if path else name
    tensor = layer._parameters.get(name, layer._buffers.get(name))
    others = [] if tensor is None else held.get(_place(tensor), [])
    return ", ".join(other for other in others if other != own)


def _place(tensor: Tensor) -> Place:
    try:
        return tensor.untyped_storage()._cdata, tensor.storage_offset()
    except (NotImplementedError, RuntimeError, ValueError):  # sparse, packed or not there yet
        return id(tensor), -1


def not_a_sum(
    layer: Layer,
    name: str,
    flow: Flow | None,
    traced: Flow | str,
    held: Holders,
    kept_in: Holders,
    frozen: Mapping[str, str],
) -> str | None:
    """Return why the weight of ``layer`` cannot be written as a sum, with any norm.

    ``frozen`` has the reasons why parameters, by name, do not require a gradient, where they are known.
    """
    if parametrize.is_parametrized(layer, "weight") or layer._parameters.get("weight") is None:
        return "its weight is computed by a parametrization; make it plain first: rk.bake(model)"
    weight = layer.weight
    if reason := _no_kernel(weight) or _another_shape(layer):
        return reason
    if not weight.requires_grad:
        return f"frozen: {frozen.get(f'{name}.weight', 'its weight has requires_grad=False')}"
    if others := shared(layer, name, "weight", held):
        return f"its weight is also {others}"
    if "forward" in vars(layer):
        return "its forward has been replaced, by one that may belong to another copy of it"
    if isinstance(layer, NonDynamicallyQuantizableLinear) or (flow is not None and layer in flow.reads):
        return "its weight or bias is read outside its own forward"
    if flow is None:
        places = [place for parameter in layer.parameters() for place in kept_in.get(_place(parameter), ())]
        if places:
            return f"its weight or bias stands in {places[0]} too, and may be read there: give example inputs"
    elif flow.calls[layer] == 0:
        seen = isinstance(traced, Flow) and traced.calls[layer] == 0
        return f"the {'forward pass never runs' if seen else 'example inputs never run'} it"
    return None


def _no_kernel(weight: Tensor) -> str | None:
    if isinstance(weight, UninitializedParameter):
        return "lazy module: run the model once first"
    if not weight.is_floating_point():
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}, not floating point"
    if not weight.numel():
        return "its weight has no elements"
    if weight.is_meta:
        return "its weight is on the meta device, without values"
    return None


def _another_shape(layer: Layer) -> str | None:
    """Return whether its weight has been exchanged for one of another shape than the settings of ``layer`` say."""
    have, said = tuple(layer.weight.shape), weight_shape(layer)
    return None if have == said else f"its weight is {have}, where its settings say {said}: set them as it is"


def no_branch_norms(layer: Layer) -> str | None:
    """Return why branches with a BatchNorm of their own cannot run beside ``layer``, wherever their shift may go."""
    if has_own_forward(layer):
        return "its class has a forward of its own, which branches with a BatchNorm cannot follow"
    if has_hooks(layer):
        return "its hooks see and change the deployed part alone, not the sum with branches of norm='batch'"
    return None


def no_shift_in_bias(layer: Layer, name: str, held: Holders) -> str | None:
    """Return why a fold may not move the bias of ``layer``."""
    if layer.bias is None:
        return "it has no bias to take up the shift of a BatchNorm"
    bias = layer._parameters.get("bias")
    if bias is None:
        return "its bias is computed by a parametrization; make it plain first: rk.bake(model)"
    if not bias.requires_grad:
        return "its bias is frozen"
    others = shared(layer, name, "bias", held)
    return f"its bias is also {others}" if others else None


def no_shift_in_norm(norm: nn.Module, name: str, flow: Flow | None, held: Holders) -> str | None:
    """Return why a fold may not move the running mean of the BatchNorm behind a layer."""
    if reason := not_affine(norm):
        return reason
    parameters = list(norm.parameters(recurse=False))
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return "it is frozen"
    if others := shared(norm, name, "running_mean", held):
        return f"its running mean is also {others}"
    if flow is not None and norm in flow.reads:
        return "its running mean is read outside its own forward"
    return None


def no_restored_norm(layer: Layer, name: str, batch_norm: str | None, held: Holders) -> str | None:
    """Return why no BatchNorm can be put back behind ``layer`` that folds into it again."""
    if batch_norm is not None:
        return "it has a BatchNorm of its own"
    if reason := no_shift_in_bias(layer, name, held):
        return reason
    if has_own_forward(layer):
        return "its class has a forward of its own, through which a BatchNorm may not fold"
    if layer._forward_hooks:
        return "its forward hooks would see, or change, its output before the BatchNorm"
    return None
