"""The nodes of a graph, one after the other, each by the importer of its operator; of an ``If`` those of one branch."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, MutableMapping
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from torch import Tensor, fx

from reparam_kit.errors import InputError, UnsupportedError, first_line, is_own_fault
from reparam_kit.onnx.importer.builder import Builder
from reparam_kit.onnx.importer.example import example
from reparam_kit.onnx.importer.levels import integers
from reparam_kit.onnx.importer.op import Op, UnknownError, place_of
from reparam_kit.onnx.importer.order import in_order
from reparam_kit.onnx.importer.registry import NEWEST_OPSET, OLDEST_OPSET, find_importer, imported
from reparam_kit.onnx.importer.surroundings import Surroundings
from reparam_kit.onnx.importer.values import Constant, Value, dtype_of, held, to_tensor, typed, widened
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.part import names_read
from reparam_kit.onnx.weights import body_place, decode


class Import:
    """One import of a model with a builder, by the examples of its inputs; ``batched`` inputs hold the batch."""

    def __init__(
        self,
        model: ModelProto,
        builder: Builder,
        example: Callable[[ValueInfoProto], Tensor | None],
        batched: Collection[str],
    ) -> None:
        self._batched = batched
        self._opsets = _opsets(model)
        self._graph: GraphProto = model.graph
        self._builder = builder
        self._example = example
        self._values: MutableMapping[str, Value] = {}
        self._surroundings = Surroundings(model.graph, self._values)
        self._read = {name for node in model.graph.node for name in names_read(node)}
        self._read.update(output.name for output in model.graph.output)
        self._stored = {tensor.name: tensor for tensor in self._graph.initializer}
        # Before IR version 4, initializers are inputs too.
        self.inputs = [info.name for info in self._graph.input if info.name not in self._stored]
        self.sources = builder.sources
        self.slow: list[str] = []  # the nodes that are run image by image
        self.decisions: dict[str, bool] = {}  # of each If whose condition is made from sizes
        self.sizes_open = builder.free_sizes or builder.rows is not None
        self._guesses = (
            True  # that sizes which the file leaves open decide nothing, which is seen to afterwards
        )

    def run(self) -> Import:
        """Import all: the result is ``model``."""
        if self._graph.sparse_initializer:
            raise UnsupportedError(
                "sparse initializers are not supported; export the model with dense weights"
            )
        for name in (*self.inputs, *(self._stored.keys() & self._read)):
            self._values[name] = self._given(name)
        images = self._builder.images
        for node in in_order(self._graph.node, self._values):
            before = images.one_by_one if images else 0
            try:
                self._values.update(self._import(node))
            except (InputError, UnsupportedError) as error:
                raise type(error)(f"{place_of(node)}: {error}") from error
            except Exception as error:  # damage leads torch, onnx and arithmetic to raise nearly anything
                if is_own_fault(error):
                    raise
                raise InputError(f"{place_of(node)} is malformed: {first_line(error)[:200]}") from error
            if images and images.one_by_one > before:
                self.slow.append(place_of(node))
        self.model = self._builder.finish([self._value(output.name) for output in self._graph.output])
        return self

    def reached(self) -> tuple[list[NodeProto], set[str]]:
        """Return the nodes that can be imported, and the floating-point tensors that these compute at run time."""
        for name in (*self.inputs, *(self._stored.keys() & self._read)):
            with suppress(InputError, UnsupportedError):
                self._values[name] = self._given(name)
        self._guesses = False
        done, found = list[NodeProto](), set[str]()
        for node in in_order(self._graph.node, self._values):
            with suppress(Exception):  # whatever it raises, the import cannot go through it
                made = dict(self._import(node))
                self._values.update(made)
                done.append(node)
                found.update(name for name, value in made.items() if _is_floating(value))
        return done, found

    def _given(self, name: str) -> Value:
        """Return an input, or a tensor that the file stores."""
        if name in self._stored:
            return self._tensor(self._stored[name])
        [info] = [info for info in self._graph.input if info.name == name]
        optional = self._read.isdisjoint(self.inputs[self.inputs.index(name) :])
        value: Value = self._builder.input(name, self._example(info), optional, name in self._batched)
        dtype = dtype_of(info.type.tensor_type.elem_type)
        if dtype.is_floating_point and held(dtype) != dtype and not optional:
            value = self._builder.call(widened, (value,))
        return typed(value, dtype)

    def _tensor(self, tensor: TensorProto) -> Constant:
        """Return what the graph at hand stores."""
        key, dtype = TensorKey("initializer", tensor.name, self._builder.scope), dtype_of(tensor.data_type)
        made = self._builder.constant(key, to_tensor(decode(tensor), tensor.data_type), dtype)
        if key in self._builder.file_tensors:
            return made
        return replace(made, source=None, lost=f"{key} is stored in a function of the file")

    def _branch(self, node: NodeProto) -> Iterator[tuple[str, Value]]:
        """Import the branch of an ``If`` that is taken, as if its nodes stood in its place."""
        name = "then_branch" if self._condition(node) else "else_branch"
        [graph] = [attribute.g for attribute in node.attribute if attribute.name == name]
        outer, scope, read = self._values, self._builder.scope, self._read
        self._values, self._builder.scope = ChainMap({}, outer), (body_place(node, name), *scope)
        self._read = {*read, *(n for inner in graph.node for n in names_read(inner))}
        self._read.update(info.name for info in graph.output)
        try:
            self._values.update({tensor.name: self._tensor(tensor) for tensor in graph.initializer})
            for inner in in_order(graph.node, self._values):
                self._values.update(self._import(inner))
            results = [self._value(info.name) for info in graph.output]
        finally:
            self._values, self._builder.scope, self._read = outer, scope, read
        yield from zip(node.output, results, strict=True)

    def _condition(self, node: NodeProto) -> bool:
        value = self._value(node.input[0])
        known = value.tensor if isinstance(value, Constant) else example(value)
        if not isinstance(known, Tensor) or known.is_meta:
            raise UnknownError("its condition depends on the numbers of an input: either branch may be taken")
        if isinstance(value, fx.Node):
            if self.sizes_open and not self._guesses:
                raise UnsupportedError("its condition may depend on sizes that the file leaves open")
            self.decisions[place_of(node)] = bool(known)
        return bool(known)

    def _import(self, node: NodeProto) -> Iterator[tuple[str, Value]]:
        if node.op_type == "If" and node.domain in ("", "ai.onnx"):
            yield from self._branch(node)
            return
        domain = "" if node.domain == "ai.onnx" else node.domain
        opset = self._opsets.get(domain, 1)
        find_importer(node.op_type, domain, opset)  # to be refused for this, whatever else is the matter
        inputs = [self._value(name) if name else None for name in node.input]
        results = imported(Op(node, domain, opset, inputs, self._builder, self._surroundings))
        for name, value in zip_longest(node.output, results[: len(node.output)]):
            if value is None and name in self._read - {""}:
                raise UnsupportedError(f"its output {name!r} is not supported")
            if isinstance(value, fx.Node):
                value.meta.setdefault("value", name)
            if value is not None:
                yield name, value

    def _value(self, name: str) -> Value:
        if name not in self._values:
            raise InputError(f"nothing before it computes {name!r}")
        return self._values[name]


def _is_floating(value: Value) -> bool:
    known = example(value) if isinstance(value, fx.Node) else None
    if not isinstance(known, Tensor) or not known.dim():
        return False
    return known.dtype.is_floating_point and integers(value) is None


def _opsets(model: ModelProto) -> dict[str, int]:
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    opset = opsets.get("", OLDEST_OPSET)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UnsupportedError(
            f"opset {opset} is not one of {OLDEST_OPSET} to {NEWEST_OPSET}, which can be imported; "
            "convert the file with onnx.version_converter"
        )
    return opsets
