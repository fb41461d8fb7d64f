"""What a graph asks of an input that its declaration leaves open: sizes, by the weights that meet it, and how large
its integers may be, by the table that they are places in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from onnx import AttributeProto, GraphProto, NodeProto

_Dims: TypeAlias = tuple[int, ...]
_Shapes: TypeAlias = Mapping[str, _Dims]

# Operator -> which of its inputs is a weight, the dimension of the first input that has to fit it, and that of the
# weight.
_WEIGHTED: dict[str, tuple[int, int, int]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "FusedConv"), (1, 1, 1)),
    "ConvTranspose": (1, 1, 0),
    "QLinearConv": (3, 1, 1),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), (1, 1, 0)),
    **dict.fromkeys(("FusedMatMul", "Gemm", "MatMul", "MatMulInteger"), (1, -1, -2)),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), (1, -1, 2)),
}
_ARITHMETIC = {"Add", "Div", "Mul", "Sub"}
_RETYPED = {"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"}
# Operators whose output has the sizes of their first input; those of either, where the other is a constant.
_LIKE = {*_ARITHMETIC, *_RETYPED, "BatchNormalization", "Clip", "InstanceNormalization", "PRelu", "Relu"}


@dataclass
class Demands:
    """``sizes``: of dimensions of the input; ``below``: what each of its integers has to be."""

    sizes: dict[int, int] = field(default_factory=dict)
    below: int | None = None


def demands(graph: GraphProto, name: str, rank: int) -> Demands:
    """Follow the input ``name``, of ``rank`` dimensions, to the weights that it meets first."""
    found = Demands()
    stored = dict(_stored(graph))
    # A value, and which dimension of the input each of its own is.
    waiting, seen = [(name, tuple(range(rank)))], {name}
    while waiting:
        value, dims = waiting.pop()
        for node in graph.node:
            if value not in node.input:
                continue
            for place, size in _asked(node, value, len(dims), stored):
                if -len(dims) <= place < len(dims):
                    found.sizes.setdefault(dims[place], size)
            table = stored.get(node.input[0], ())
            if node.op_type == "Gather" and value in node.input[1:] and table:
                rows = table[_attributes(node)["axis"].i if "axis" in _attributes(node) else 0]
                found.below = min(rows, found.below or rows)
            order = _order(node, dims)
            if order is not None and node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append((node.output[0], order))
    return found


def _stored(graph: GraphProto) -> Iterator[tuple[str, _Dims]]:
    """Yield the names and shapes of stored tensors, and of what is only another type of them."""
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and "value" in _attributes(node):
            known[node.output[0]] = tuple(_attributes(node)["value"].t.dims)
        if node.op_type in _RETYPED and node.input and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]]
    yield from known.items()


def _asked(node: NodeProto, value: str, rank: int, stored: _Shapes) -> Iterator[tuple[int, int]]:
    """Yield the dimensions of ``value``, of ``rank`` dimensions, that ``node`` asks something of, and what."""
    if node.op_type in _ARITHMETIC:
        other = next((stored[name] for name in node.input if name in stored), ())
        yield from ((i - len(other), size) for i, size in enumerate(other) if size > 1)
    if node.op_type not in _WEIGHTED or node.input[0] != value:
        return
    position, place, of_weight = _WEIGHTED[node.op_type]
    weight = stored.get(node.input[position], ()) if position < len(node.input) else ()
    attributes = _attributes(node)
    times = attributes["group"].i if node.op_type != "ConvTranspose" and "group" in attributes else 1
    if "transB" in attributes and attributes["transB"].i:
        of_weight = -1
    if -len(weight) <= of_weight < len(weight):
        yield place, weight[of_weight] * times


def _order(node: NodeProto, dims: _Dims) -> _Dims | None:
    """Return which dimensions of the input those of the node's output are; None where it has others."""
    if node.op_type == "Transpose":
        order = _attributes(node)["perm"].ints if "perm" in _attributes(node) else range(len(dims))[::-1]
        return tuple(dims[i] for i in order) if sorted(order) == list(range(len(dims))) else None
    return dims if node.op_type in _LIKE else None


def _attributes(node: NodeProto) -> dict[str, AttributeProto]:
    return {attribute.name: attribute for attribute in node.attribute}
