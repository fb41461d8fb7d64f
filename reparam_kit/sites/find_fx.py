"""Dataflow by symbolic tracing: needs no input, and gives up where control flow depends on values."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from reparam_kit.algebra import LAYERS, Layer
from reparam_kit.errors import first_line
from reparam_kit.sites.flow import CONVOLUTIONS, METADATA, WHOLE, Flow, is_metadata, owners, untouched


class _Tracer(fx.Tracer):
    """Keeps layers and BatchNorms whole by class, not by the module path they come from."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, WHOLE) or super().is_leaf_module(m, module_qualified_name)


class _Reads(TorchFunctionMode):
    """Takes note of parameters that come from elsewhere than a module: they are no symbols, and leave no node."""

    def __init__(self, owner: dict[int, Layer]) -> None:
        super().__init__()
        self.owner = owner
        self.layers: set[Layer] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if not is_metadata(func):
            self.layers |= {
                self.owner[id(leaf)] for leaf in tree_leaves((args, kwargs)) if id(leaf) in self.owner
            }
        return func(*args, **(kwargs or {}))


def trace(model: nn.Module) -> Flow | str:
    """Follow the model's dataflow in eval mode, or say why symbolic tracing cannot (one line)."""
    if isinstance(model, LAYERS):
        return Flow({model: 1})
    owner = owners(model)
    reads = _Reads(owner)
    with untouched(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with reads:
                graph = _Tracer().trace(model)
        except Exception as error:  # tracing runs the user's forward, which may raise anything
            return f"{type(error).__name__}: {first_line(error)}"
        flow = _follow(model, graph, owner)
    flow.reads |= reads.layers
    return flow


def _follow(model: nn.Module, graph: fx.Graph, owner: dict[int, Layer]) -> Flow:
    flow = Flow.of(model)
    parameters = dict(model.named_parameters())
    sole: dict[Layer, _BatchNorm] = {}
    norm_calls: Counter[nn.Module] = Counter()
    for node in graph.nodes:
        if node.op == "call_function" and node.target in CONVOLUTIONS:
            weight = node.args[1] if len(node.args) > 1 else node.kwargs["weight"]
            flow.add_functional(node.target.__name__, weight.target if weight.target in parameters else None)
        elif node.op == "get_attr" and node.target in parameters:
            layer = owner.get(id(parameters[node.target]))
            if layer is not None and any(True for _ in _consumers(node, model)):
                flow.reads.add(layer)
        elif node.op == "call_module":
            module = model.get_submodule(node.target)
            if isinstance(module, LAYERS):
                flow.calls[module] = (flow.calls[module] or 0) + 1
                norm = _sole_norm(node, model)
                if norm is not None:
                    sole[module] = norm
            elif isinstance(module, _BatchNorm):
                norm_calls[module] += 1
            for inside in module.modules():
                if isinstance(inside, LAYERS) and inside is not module:
                    flow.calls[inside] = None
    flow.claim(sole, norm_calls)
    return flow


def _sole_norm(node: fx.Node, model: nn.Module) -> _BatchNorm | None:
    """The BatchNorm that alone consumes the output of ``node``. Hooks see tensors unnoticed: no claim past them."""
    consumers = list(_consumers(node, model))
    if len(consumers) != 1 or consumers[0].op != "call_module":
        return None
    norm = model.get_submodule(str(consumers[0].target))
    if model.get_submodule(str(node.target))._forward_hooks or norm._forward_pre_hooks:
        return None
    return norm if isinstance(norm, _BatchNorm) else None


def _consumers(node: fx.Node, model: nn.Module) -> Iterator[fx.Node]:
    """Nodes that use the values of ``node``, seen through ``nn.Identity``."""
    for user in node.users:
        if user.op == "call_module" and type(model.get_submodule(str(user.target))) is nn.Identity:
            yield from _consumers(user, model)
        elif not _reads_metadata(user):
            yield user


def _reads_metadata(node: fx.Node) -> bool:
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in METADATA
    return node.op == "call_method" and node.target in METADATA
