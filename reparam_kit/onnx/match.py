"""Whether two ONNX graphs compute the same expression of their weights, whatever they call their values.

Two exports of one net differ in names, in the order of nodes, and in whether a number is an initializer or a
``Constant`` node. So the two graphs are read as expressions: from the outputs back, operator against operator, input
against input in their order. Since inputs are ordered there is nothing to search, and where the walk arrives at two
stored tensors it has found which weight is which.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, defs, helper

from reparam_kit.errors import InputError
from reparam_kit.onnx.changes import Change, change
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.weights import OnnxFile, weights

_SUBGRAPHS = {AttributeProto.GRAPH, AttributeProto.GRAPHS}


@dataclass(frozen=True)
class Match:
    """Where two graphs part (``differences``, the nearest to the outputs first), and which weights correspond.

    ``weights`` maps those of the first graph to theirs in the second, of the same shape and dtype.
    """

    differences: tuple[Change, ...]
    weights: dict[TensorKey, TensorProto]


def match(a: OnnxFile, b: OnnxFile) -> Match:
    """Compare what ``a`` computes with what ``b`` computes, up to the numbers of weights.

    Operators, their domain and attributes (an attribute that is not given counts as its default), how they are wired,
    the inputs' types and fixed sizes, shapes and dtypes of weights, and the numbers of all other tensors must be
    equal. Names, order, metadata, the declared shapes of other values and nodes that no output depends on are not
    looked at. An ``Identity`` of a stored tensor, which exporters write for two weights of equal numbers, is that
    tensor.

    Raises:
        InputError: a graph uses a value that nothing computes.
    """
    return _Walk(_Graph(a), _Graph(b)).run()


class _Graph:
    def __init__(self, file: OnnxFile) -> None:
        graph = file.model.graph
        self.file = file
        self.weights = weights(file.model)
        self.stored: dict[str, tuple[TensorKey, TensorProto]] = {
            tensor.name: (TensorKey("initializer", tensor.name), tensor) for tensor in graph.initializer
        }
        self.nodes: dict[str, NodeProto] = {}
        for node in graph.node:
            self.nodes.update((name, node) for name in node.output if name)
            if node.op_type == "Constant" and node.output:
                key = TensorKey("constant", node.output[0])
                self.stored.update((key.name, (key, a.t)) for a in node.attribute if a.name == "value")
            elif node.op_type == "Identity" and node.input[0] in self.stored:
                self.stored[node.output[0]] = self.stored[node.input[0]]
        self.inputs = graph_inputs(file.model)
        self.opsets = {_domain(opset.domain): opset.version for opset in file.model.opset_import}
        self.outputs = [output.name for output in graph.output]

    def node(self, name: str) -> NodeProto:
        if name not in self.nodes:
            raise InputError(f"the ONNX graph is damaged: nothing in it computes {name!r}")
        return self.nodes[name]

    def attributes(self, node: NodeProto) -> dict[str, bytes]:
        """Those that are not at their defaults, serialised without names of tensors."""
        domain = _domain(node.domain)
        try:
            known = defs.get_schema(node.op_type, self.opsets.get(domain, 1), domain).attributes
        except defs.SchemaError:  # an operator that is no part of the standard
            known = {}
        found = {attribute.name: _serialise(attribute) for attribute in node.attribute}
        return {
            name: value
            for name, value in found.items()
            if name not in known or value != _serialise(known[name].default_value)
        }


class _Walk:
    def __init__(self, a: _Graph, b: _Graph) -> None:
        self._a = a
        self._b = b
        self._differences: dict[Change, None] = {}
        self._weights: dict[TensorKey, TensorProto] = {}
        self._waiting: deque[tuple[str, str]] = deque()

    def run(self) -> Match:
        a, b = self._a, self._b
        if a.opsets.get("") != b.opsets.get(""):
            self._differ("opset", a.opsets.get(""), b.opsets.get(""))
        for what in ("inputs", "outputs"):
            counts = [len(getattr(graph, what)) for graph in (a, b)]
            if counts[0] != counts[1]:
                self._differ(f"number of {what}", *counts)
        for before, after in zip(a.inputs, b.inputs, strict=False):
            if not _same_type(before, after):
                self._differ(f"input {before.name!r}", _type(before), _type(after))
        self._waiting.extend(zip(a.outputs, b.outputs, strict=False))
        seen: set[tuple[str, str]] = set()
        while self._waiting:
            pair = self._waiting.popleft()
            if pair not in seen:
                seen.add(pair)
                self._compare(*pair)
        return Match(tuple(self._differences), self._weights)

    def _compare(self, x: str, y: str) -> None:
        """Compare two values that stand at the same place of the two expressions."""
        a, b = self._a, self._b
        if x == y == "":  # an optional input that neither node is given
            return
        if x in a.stored and y in b.stored:
            self._compare_stored(x, y)
            return
        positions = [
            {info.name: position for position, info in enumerate(graph.inputs)}.get(name)
            for graph, name in ((a, x), (b, y))
        ]
        if positions != [None, None] or x in a.stored or y in b.stored or not (x and y):
            if positions[0] is None or positions[0] != positions[1]:
                self._differ(f"value {x!r}" if x else "an input", _origin(a, x), _origin(b, y))
            return
        before, after = a.node(x), b.node(y)
        where = f"node {before.name or before.output[0]!r}"
        kinds = [
            (_domain(n.domain), n.op_type, list(n.output).index(v)) for n, v in ((before, x), (after, y))
        ]
        if kinds[0] != kinds[1]:
            self._differ(where, before.op_type, after.op_type)
            return
        attributes = [graph.attributes(node) for graph, node in ((a, before), (b, after))]
        for name in sorted(attributes[0].keys() | attributes[1].keys()):
            if attributes[0].get(name) != attributes[1].get(name):
                texts = (_text(before, name), _text(after, name))
                self._differ(f"{where} ({before.op_type})", *texts)
        if any(attribute.type in _SUBGRAPHS for attribute in before.attribute):
            self._differ(
                f"{where} ({before.op_type})", "a sub-graph", "a sub-graph, and they are not compared"
            )
        sides = [list(node.input) for node in (before, after)]
        length = max(map(len, sides))
        self._waiting.extend(zip(*(side + [""] * (length - len(side)) for side in sides), strict=True))

    def _compare_stored(self, x: str, y: str) -> None:
        (key, before), (_, after) = self._a.stored[x], self._b.stored[y]
        if (before.dims, before.data_type) != (after.dims, after.data_type):
            self._differ(str(key), _shape(before), _shape(after))
            return
        if key in self._a.weights:
            other = self._weights.setdefault(key, after)
            if self._b.file.read(other).tobytes() != self._b.file.read(after).tobytes():
                self._differ(str(key), "one tensor for two places", "two tensors with other numbers")
            return
        numbers = self._a.file.read(before), self._b.file.read(after)
        if numbers[0].tobytes() != numbers[1].tobytes():
            self._differ(str(key), *(number.tolist() for number in numbers))

    def _differ(self, where: str, before: object, after: object) -> None:
        self._differences[change("changed", where, str(before), str(after))] = None


def graph_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Return the inputs that have no initializer: before IR version 4, and by choice later, weights are inputs too."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in stored]


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _serialise(attribute: AttributeProto) -> bytes:
    bare = AttributeProto()
    bare.CopyFrom(attribute)
    bare.ClearField("doc_string")
    if bare.HasField("t"):
        bare.t.ClearField("name")
    return bare.SerializeToString(deterministic=True)


def _same_type(a: ValueInfoProto, b: ValueInfoProto) -> bool:
    """Same element type, number of dimensions and fixed sizes; a free dimension is one that has no size."""
    types = [info.type.tensor_type for info in (a, b)]
    sizes = [[dim.dim_value if dim.HasField("dim_value") else None for dim in t.shape.dim] for t in types]
    return types[0].elem_type == types[1].elem_type and sizes[0] == sizes[1]


def _type(info: ValueInfoProto) -> str:
    dims = info.type.tensor_type.shape.dim
    sizes = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
    return f"{_element(info.type.tensor_type.elem_type)}[{', '.join(sizes)}]"


def _shape(tensor: TensorProto) -> str:
    return f"{_element(tensor.data_type)}{list(tensor.dims)}"


def _element(data_type: int) -> str:
    return TensorProto.DataType.Name(data_type).lower()


def _text(node: NodeProto, name: str) -> str:
    found = [attribute for attribute in node.attribute if attribute.name == name]
    return str(helper.printable_attribute(found[0])) if found else f"{name} not given"


def _origin(graph: _Graph, name: str) -> str:
    if not name:
        return "not given"
    if name in graph.stored:
        return "a stored tensor"
    inputs = [info.name for info in graph.inputs]
    return f"input {inputs.index(name)}" if name in inputs else f"computed by {graph.node(name).op_type}"
