"""Dataflow by symbolic tracing: needs no input, and gives up where control flow depends on values."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from reparam_kit.algebra import LAYERS, METADATA, Layer, has_hooks, has_own_forward, is_metadata
from reparam_kit.errors import first_line
from reparam_kit.sites.flow import CONVOLUTIONS, WHOLE, Flow, owners, untouched
from reparam_kit.substitution import StandIn


class _Tracer(fx.Tracer):
    """Keeps layers and BatchNorms whole by class, not by the module path they come from."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, StandIn):
            return isinstance(m, WHOLE)
        return isinstance(m, WHOLE) or super().is_leaf_module(m, module_qualified_name)


class _Reads(TorchFunctionMode):
    """Takes note of parameters that come from elsewhere than a module: they are no symbols, and leave no node."""

    def __init__(self, owner: dict[int, list[nn.Module]]) -> None:
        super().__init__()
        self.owner = owner
        self.found: set[nn.Module] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if not is_metadata(func):
            for leaf in tree_leaves((args, kwargs)):
                self.found.update(self.owner.get(id(leaf), ()))
        return func(*args, **(kwargs or {}))


def trace(model: nn.Module) -> Flow | str:
    """Follow the model's dataflow in eval mode, or say why symbolic tracing cannot (one line)."""
    if isinstance(model, LAYERS):
        return Flow({model: 1})
    with untouched(model):
        reads = _Reads(owners(model))
        with reads:
            graph = _graph(model)
        if isinstance(graph, str):
            return graph
        flow = _follow(model, graph, reads.owner)
    flow.reads |= reads.found
    return flow


def parted(model: nn.Module, norms: dict[str, str]) -> dict[str, bool]:
    """Return whether something else than its BatchNorm takes, or changes on the way, what a layer gives.

    Args:
        model: any module; it is left as it was.
        norms: for layers of it, whatever stands in for them, the BatchNorm, all by name. Those that tracing does not
            reach are missing in what is returned.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    with untouched(model):
        graph = _graph(model)
    if isinstance(graph, str):
        return {}
    calls: dict[nn.Module, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(modules[node.target], []).append(node)
    found = {}
    for layer, norm in norms.items():
        nodes = calls.get(modules[layer], [])
        if nodes:
            alone = all(_sole_norm(node, model) is modules[norm] for node in nodes)
            found[layer] = not alone or len(nodes) != len(calls[modules[norm]])
    return found


def _graph(model: nn.Module) -> fx.Graph | str:
    if has_hooks(model):
        return "tracing passes over the hooks of the model itself"
    if "forward" in vars(model):
        return "tracing passes over a forward that the model itself has been given"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _Tracer().trace(model)
        except Exception as error:  # tracing runs the user's forward, which may raise anything
            return f"{type(error).__name__}: {first_line(error)}"


def _follow(model: nn.Module, graph: fx.Graph, owner: dict[int, list[nn.Module]]) -> Flow:
    flow = Flow.of(model)
    sole: dict[Layer, _BatchNorm] = {}
    norm_calls: Counter[nn.Module] = Counter()
    for node in graph.nodes:
        if node.op == "call_function" and node.target in CONVOLUTIONS:
            weight = node.args[1] if len(node.args) > 1 else node.kwargs["weight"]
            flow.add_functional(node.target.__name__, _parameter_name(weight, model))
        elif node.op == "get_attr":
            if any(True for _ in _consumers(node, model)):
                flow.reads.update(owner.get(id(attrgetter(node.target)(model)), ()))
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
                elif isinstance(inside, _BatchNorm) and inside is not module:
                    norm_calls[inside] += 1
    flow.claim(sole, norm_calls)
    return flow


def _parameter_name(node: fx.Node, model: nn.Module) -> str | None:
    """Return the name, or the first of several, of the parameter that ``node`` reads; None: it is something else."""
    if node.op != "get_attr":
        return None
    read = attrgetter(str(node.target))(model)
    return next((name for name, parameter in model.named_parameters() if parameter is read), None)


def _sole_norm(node: fx.Node, model: nn.Module) -> _BatchNorm | None:
    """Return the BatchNorm that alone consumes the output of ``node``. Hooks see tensors unnoticed: no claim
    past them.
    """
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
        if user.op == "call_module" and _passes(model.get_submodule(str(user.target))):
            yield from _consumers(user, model)
        elif not _reads_metadata(user):
            yield user


def _passes(module: nn.Module) -> bool:
    return type(module) is nn.Identity and not has_hooks(module) and not has_own_forward(module)


def _reads_metadata(node: fx.Node) -> bool:
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in METADATA
    return node.op == "call_method" and node.target in METADATA
