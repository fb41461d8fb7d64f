"""A part of a graph: from its inputs to values within it, without what lies behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from reparam_kit.errors import InputError, suggestion


def cut(model: ModelProto, outputs: Sequence[str]) -> set[str]:
    """Let ``model`` end at the values called ``outputs``, and take only the inputs that these depend on.

    Returns the names of what the nodes that are gone read.

    Raises:
        InputError: no node of the main graph computes such a value.
    """
    graph = model.graph
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    for name in outputs:
        _require_computed(graph, makers, name)
    if len(set(outputs)) < len(outputs):
        raise InputError(f"an output is named twice among {', '.join(map(repr, outputs))}")
    kept: set[int] = set()
    waiting = list(outputs)
    while waiting:
        i = makers.get(waiting.pop())
        if i is not None and i not in kept:
            kept.add(i)
            waiting.extend(names_read(graph.node[i]))
    read: tuple[set[str], set[str]] = set(), set()
    for i, node in enumerate(graph.node):
        read[i in kept].update(names_read(node))
    stored = {tensor.name for tensor in graph.initializer}
    for i in reversed(range(len(graph.node))):
        if i not in kept:
            del graph.node[i]
    for i in reversed(range(len(graph.input))):
        if graph.input[i].name not in read[True] | stored:
            del graph.input[i]
    del graph.output[:]
    graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    return read[False]


def names_read(node: NodeProto) -> Iterator[str]:
    """Yield the names of what a node reads, also within its sub-graphs."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            own = {tensor.name for tensor in graph.initializer} | {info.name for info in graph.input}
            own.update(name for inner in graph.node for name in inner.output)
            read = (name for inner in graph.node for name in names_read(inner))
            yield from (name for name in (*read, *(info.name for info in graph.output)) if name not in own)


def _require_computed(graph: GraphProto, makers: Mapping[str, int], name: str) -> None:
    if name in (info.name for info in graph.input):
        raise InputError(f"the output {name!r} is an input of the file: name a value that it computes")
    if name not in makers:
        raise InputError(
            f"the file computes no value {name!r} to end at; {suggestion(name, makers, 'values')}"
        )
