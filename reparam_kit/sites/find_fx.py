"""Dataflow by symbolic tracing: which modules run where, and which BatchNorm a convolution alone feeds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from reparam_kit.algebra import Expanded
from reparam_kit.errors import first_line
from reparam_kit.modes import evaluating

_FUNCTIONAL = {
    F.conv1d,
    F.conv2d,
    F.conv3d,
    F.conv_transpose1d,
    F.conv_transpose2d,
    F.conv_transpose3d,
}


@dataclass
class Flow:
    """What a trace shows: calls of each convolution, the BatchNorm behind it, and functional convolutions."""

    calls: dict[nn.Module, int] = field(default_factory=dict)
    batch_norms: dict[nn.Module, nn.Module] = field(default_factory=dict)
    functional: list[str] = field(default_factory=list)


class _Tracer(fx.Tracer):
    """Keeps convolutions and BatchNorms whole by class, not by the module path they come from."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Expanded | _ConvNd | _BatchNorm) or super().is_leaf_module(
            m, module_qualified_name
        )


def trace(model: nn.Module) -> Flow | str:
    """Follow the model's dataflow in eval mode, or say why symbolic tracing cannot (one line)."""
    if isinstance(model, _ConvNd):
        return Flow(calls={model: 1})
    try:
        with evaluating(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = _Tracer().trace(model)
    except Exception as error:  # tracing runs the user's forward, which may raise anything
        return f"{type(error).__name__}: {first_line(error)}"
    return _follow(model, graph)


def _follow(model: nn.Module, graph: fx.Graph) -> Flow:
    flow = Flow()
    norm_calls: dict[nn.Module, int] = {}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _FUNCTIONAL:
            flow.functional.append(node.name)
        if node.op != "call_module":
            continue
        module = model.get_submodule(node.target)
        if isinstance(module, _BatchNorm):
            norm_calls[module] = norm_calls.get(module, 0) + 1
        if not isinstance(module, _ConvNd):
            continue
        flow.calls[module] = flow.calls.get(module, 0) + 1
        users = list(node.users)
        if len(users) == 1 and users[0].op == "call_module":
            after = model.get_submodule(users[0].target)
            if isinstance(after, _BatchNorm):
                flow.batch_norms[module] = after
    flow.batch_norms = {
        conv: norm
        for conv, norm in flow.batch_norms.items()
        if flow.calls[conv] == 1 and norm_calls[norm] == 1 and norm.track_running_stats
    }
    return flow
