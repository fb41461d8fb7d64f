"""What both finders look for in the dataflow of a model, and how they leave the model as it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from reparam_kit.algebra import LAYERS, Expanded, Layer
from reparam_kit.modes import evaluating

WHOLE = (Expanded, *LAYERS, _BatchNorm)
"""Modules that are not looked into: what happens within them consumes nothing outside."""

TRANSPOSED: set[Callable[..., Any]] = {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}
CONVOLUTIONS: set[Callable[..., Any]] = {F.conv1d, F.conv2d, F.conv3d, *TRANSPOSED}


@dataclass
class Flow:
    """Where the layers of a model run, and what becomes of their outputs.

    Attributes:
        calls: how often each layer runs; None where it stands inside a module that was not looked into.
        batch_norms: for a layer that runs once, the BatchNorm with running statistics that runs once and is the only
            consumer of its output.
        reads: layers whose weight or bias, and BatchNorms whose running mean, something else than their own forward
            takes.
        functional: convolutions that are not modules, by a name made from function and running number, with the
            name of the parameter that is their weight (None: the weight is computed).
        macs: multiply-accumulates of each layer, all calls together; None where nothing was run.
        positions: positions of its output times batch, all calls together; None where nothing was run.
    """

    calls: dict[Layer, int | None]
    batch_norms: dict[Layer, _BatchNorm] = field(default_factory=dict)
    reads: set[nn.Module] = field(default_factory=set)
    functional: dict[str, str | None] = field(default_factory=dict)
    macs: Counter[Layer] | None = None
    positions: Counter[Layer] | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Flow:
        """Start from ``model``, of which nothing has run yet."""
        return cls({module: 0 for module in model.modules() if isinstance(module, LAYERS)})

    def add_functional(self, function: str, weight: str | None) -> None:
        """Name and keep one more functional convolution."""
        count = sum(name.rpartition("#")[0] == function for name in self.functional)
        self.functional[f"{function}#{count + 1}"] = weight

    def claim(self, sole: dict[Layer, _BatchNorm], norm_calls: Counter[nn.Module]) -> None:
        """Keep those BatchNorms that a layer feeds alone which are its own in every call."""
        self.batch_norms = {
            layer: norm
            for layer, norm in sole.items()
            if self.calls[layer] == 1 and norm_calls[norm] == 1 and norm.track_running_stats
        }


def owners(model: nn.Module) -> dict[int, list[nn.Module]]:
    """Return the layers of each weight and bias, and the BatchNorms of each running mean, by identity of the tensor."""
    owner: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        tensors: list[Tensor | None] = []
        if isinstance(module, LAYERS):
            tensors += module._parameters.values()
        elif isinstance(module, _BatchNorm):
            tensors.append(module.running_mean)
        for tensor in tensors:
            owner.setdefault(id(tensor), []).append(module)
    owner.pop(id(None), None)
    return owner


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Eval mode for a look at ``model``; afterwards attributes, buffers and random state are what they were.

    A forward may keep what it computes (symbolic values, when it is traced) and may write to buffers even in eval
    mode: meanwhile the buffers are copies.
    """
    devices = {parameter.device.index for parameter in model.parameters() if parameter.is_cuda}
    modules = [module for module in model.modules() if not isinstance(module, torch.jit.ScriptModule)]
    saved = [(module, module.__dict__.copy(), module._buffers.copy()) for module in modules]
    copies = {
        id(b): b.clone() for m in modules for b in m._buffers.values() if b is not None and not is_lazy(b)
    }
    try:
        for module, _, buffers in saved:
            module._buffers.update({key: copies.get(id(b), b) for key, b in buffers.items()})
        with evaluating(model), torch.random.fork_rng(list(devices)):
            yield
    finally:
        for module, attributes, buffers in saved:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
