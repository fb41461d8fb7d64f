"""A device that is not there: tensors that are said to lie on it, and must not meet others, computed on the CPU.

With it is seen, where there is no GPU, whether all that meets in a net lies on the net's device.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from reparam_kit.algebra import Expanded

DEVICE = torch.device("cpu", 0)
"""Another one than ``cpu`` for what compares devices, and the same for torch's own operators."""


class Elsewhere(Tensor):
    """A tensor of that device, whose numbers are ``held`` on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, requires_grad=held.requires_grad
        )
        made.held = held.detach()
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(function, args, kwargs or {})


class Made(TorchDispatchMode):
    """Within it tensors can be made on that device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatched(function, args, kwargs or {})


class Moved(TorchFunctionMode):
    """Within it tensors can be moved there, or made of numbers: torch itself sees nothing to do."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Elsewhere) or not isinstance(result, Tensor):
            return result
        leaves = (*args, *(kwargs or {}).values())
        wanted = {leaf for leaf in leaves if isinstance(leaf, torch.device)}
        like = function is Tensor.to and any(isinstance(leaf, Elsewhere) for leaf in leaves)
        return Elsewhere(result) if like or DEVICE in wanted else result


def dispatched(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = any(isinstance(leaf, Elsewhere) for leaf in given)
    if there and not all(isinstance(leaf, Elsewhere) or not leaf.dim() for leaf in given):
        raise RuntimeError(f"{function}: a tensor of the model's device meets one of the CPU")
    there = there or kwargs.get("device") == DEVICE
    args, kwargs = tree_map_only(Elsewhere, lambda leaf: leaf.held, (args, kwargs))
    result = function(*args, **kwargs)
    return tree_map_only(Tensor, Elsewhere, result) if there else result


def run_elsewhere(model: nn.Module, *inputs: Tensor) -> None:
    """Run a copy of ``model`` on that device.

    Raises:
        RuntimeError: what lies there meets what does not.
    """
    there = copy.deepcopy(model)
    for module in there.modules():
        for kept in (module._parameters, module._buffers):
            kept.update({name: Elsewhere(value) for name, value in kept.items() if value is not None})
    with Moved(), Made(), torch.no_grad():
        there(*map(Elsewhere, inputs))


def stays(model: nn.Module) -> bool:
    """Whether it cannot be run there: fx has taken something for constant, or kernels are composed out of its sight."""
    return hasattr(model, "_tensor_constant0") or any(isinstance(part, Expanded) for part in model.modules())
