"""Replacing calls of a file's own functions by their nodes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from onnx import ModelProto, NodeProto, checker, inliner

from reparam_kit.errors import InputError, first_line

_MOST_NODES = 1_000_000


def inlined(model: ModelProto) -> ModelProto:
    """Return ``model`` without functions.

    Raises :class:`InputError` where they call each other in a circle, or would become too many nodes.
    """
    if not model.functions:
        return model
    bodies = {(function.domain, function.name): function.node for function in model.functions}

    @cache
    def size(domain: str, name: str) -> int:
        return total(bodies[domain, name]) if (domain, name) in bodies else 1

    def total(nodes: Iterable[NodeProto]) -> int:
        return sum(size(node.domain, node.op_type) for node in nodes)

    try:
        nodes = total(model.graph.node)
        if nodes > _MOST_NODES:
            raise InputError(
                f"its functions stand for {nodes} nodes, which is damage or far beyond a deployed net"
            )
        return inliner.inline_local_functions(model)
    except (RecursionError, RuntimeError, ValueError, checker.ValidationError) as error:
        raise InputError(f"its functions cannot be inlined: {first_line(error)}") from error
