"""From an ONNX file to a model: node after node, each by the importer registered for its operator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, inliner, numpy_helper
from torch import fx

from reparam_kit.errors import InputError, UnsupportedError, first_line
from reparam_kit.onnx.importer.batch import free_batch
from reparam_kit.onnx.importer.builder import Builder
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import NEWEST_OPSET, OLDEST_OPSET, find_importer
from reparam_kit.onnx.importer.values import Constant, Value, to_tensor
from reparam_kit.onnx.provenance import Provenance, Source
from reparam_kit.onnx.weights import OnnxFile, all_tensors, decode, is_external, read_bytes, read_onnx


def import_onnx(path: str | Path) -> fx.GraphModule:
    """Read an ONNX inference graph as a model of ordinary torch modules, in eval mode.

    The model takes the graph's inputs in order and returns its output, or a tuple of them. Weights and biases of
    convolutions and matrix products, PReLU slopes and the affine part of normalisations are parameters; every other
    stored tensor is a buffer. All keep the dtype they have in the file. A tensor that the file uses several times is
    one parameter. Where it is also used as something else, or was computed from other tensors, it does not require
    a gradient.

    A batch size that the file fixes is not kept: see :mod:`reparam_kit.onnx.importer.batch`.

    ``model.meta["onnx"]`` is the :class:`~reparam_kit.onnx.provenance.Provenance`.

    Raises:
        InputError: the file cannot be read, is not an ONNX model, or contradicts itself.
        UnsupportedError: it has an operator, or an operator's attribute, that cannot be imported.
    """
    path = Path(path)
    payload = read_bytes(path)
    return import_file(read_onnx(path, payload), payload, path)


def import_file(file: OnnxFile, payload: bytes, path: Path | None = None) -> fx.GraphModule:
    """:func:`import_onnx` of a file already read: ``payload`` holds its bytes, ``path`` says where it was.

    ``file`` is used up.
    """
    for tensor in all_tensors(file.model):
        if is_external(tensor):
            tensor.CopyFrom(numpy_helper.from_array(file.read(tensor), tensor.name))
    builder = Builder({node.output[0] for node in file.model.graph.node if node.op_type == "Constant"})
    try:
        model = _Import(inliner.inline_local_functions(file.model), builder).run()
    except (InputError, UnsupportedError) as error:
        raise type(error)(f"{path or 'the ONNX model'}: {error}") from error
    model.meta["onnx"] = Provenance(
        path, payload, builder.sources, {location: bytes(data) for location, data in file.external.items()}
    )
    return model


class _Import:
    def __init__(self, model: ModelProto, builder: Builder) -> None:
        if any(isinstance(name, bytes) for name in _names(model.graph)):
            raise InputError("the file is damaged: one of its names is not UTF-8 text")
        if not all(node.op_type and node.output for node in model.graph.node):
            raise InputError("the file is damaged: it has a node without an operator or without an output")
        self._opsets = _opsets(model)
        model, self._types = free_batch(model)
        self._graph: GraphProto = model.graph
        self._builder = builder
        self._values: dict[str, Value] = {}
        self._read = {name for node in model.graph.node for name in node.input}
        self._read.update(output.name for output in model.graph.output)

    def run(self) -> fx.GraphModule:
        if self._graph.sparse_initializer:
            raise UnsupportedError(
                "sparse initializers are not supported; export the model with dense weights"
            )
        stored = {tensor.name: tensor for tensor in self._graph.initializer}
        for info in self._graph.input:
            if info.name not in stored:  # before IR version 4, initializers are inputs too
                self._values[info.name] = self._builder.input(info.name)
        for name in stored.keys() & self._read:
            tensor = to_tensor(decode(stored[name]), stored[name].data_type)
            source = Source(name, "initializer", None, tuple(tensor.shape))
            self._values[name] = Constant(tensor, name, source)
        for node in self._graph.node:
            try:
                self._values.update(self._import(node))
            except InputError as error:
                raise InputError(f"{_where(node)}: {error}") from error
            except UnsupportedError as error:
                raise UnsupportedError(f"{_where(node)}: {error}") from error
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise InputError(f"{_where(node)} is malformed: {first_line(error)}") from error
        return self._builder.finish([self._value(output.name) for output in self._graph.output])

    def _import(self, node: NodeProto) -> Iterator[tuple[str, Value]]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        opset = self._opsets.get(domain, 1)
        importer = find_importer(node, domain, opset)
        if importer is None:
            raise UnsupportedError(
                f"there is no importer for the operator {node.op_type!r} of domain {domain or 'ai.onnx'!r}, "
                f"opset {opset}; export the model without it, or register a function for it with "
                "reparam_kit.onnx.importer.operator"
            )
        inputs = [self._value(name) if name else None for name in node.input]
        op = Op(node, domain, opset, inputs, self._types, self._builder)
        result = importer(op)
        op.check_all_read()
        results = result if isinstance(result, tuple) else (result,)
        for name in node.output[len(results) :]:
            if name in self._read:
                raise UnsupportedError(f"its output {name!r} is not supported")
        return zip(node.output, results, strict=False)

    def _value(self, name: str) -> Value:
        if name not in self._values:
            raise InputError(f"nothing before it computes {name!r}")
        return self._values[name]


def _names(graph: GraphProto) -> Iterator[str | bytes]:
    """All names in the graph; protobuf gives ``bytes`` for one that is no text."""
    yield from (info.name for info in (*graph.input, *graph.output))
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)


def _opsets(model: ModelProto) -> dict[str, int]:
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    opset = opsets.get("", OLDEST_OPSET)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UnsupportedError(
            f"opset {opset} is not one of {OLDEST_OPSET} to {NEWEST_OPSET}, which can be imported; "
            "convert the file with onnx.version_converter"
        )
    return opsets


def _where(node: NodeProto) -> str:
    return f"node {node.name or node.output[0]!r} ({node.op_type})"
