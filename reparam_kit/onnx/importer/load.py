"""From an ONNX file to a model: node after node, each by the importer registered for its operator."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from itertools import product, zip_longest
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, numpy_helper
from torch import Tensor, fx

from reparam_kit.errors import InputError, UnsupportedError, first_line, is_own_fault, printable
from reparam_kit.files import read_file
from reparam_kit.onnx.external import is_external
from reparam_kit.onnx.importer.batch import KeptBatchError
from reparam_kit.onnx.importer.builder import Builder
from reparam_kit.onnx.importer.example import ROWS, input_example
from reparam_kit.onnx.importer.functions import inlined
from reparam_kit.onnx.importer.op import Op, UnknownError, place_of
from reparam_kit.onnx.importer.registry import NEWEST_OPSET, OLDEST_OPSET, imported
from reparam_kit.onnx.importer.trainable import train_only
from reparam_kit.onnx.importer.values import Value, dtype_of, held, to_tensor, typed, widened
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.provenance import Provenance, Source
from reparam_kit.onnx.weights import OnnxFile, all_tensors, decode, read_onnx


def import_onnx(
    path: str | Path, *, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> fx.GraphModule:
    """Read an ONNX inference graph as a model of ordinary torch modules, in eval mode.

    The model takes the graph's inputs in order and returns its output, or a tuple of them. Last inputs that nothing
    reads may be left out. Weights and biases of convolutions and matrix products, PReLU slopes and the affine part of
    normalisations are parameters; every other stored tensor is a buffer. All keep the dtype they have in the file. A
    tensor that the file uses several times is one parameter. Where it is also used as something else, or was computed
    from other tensors, it does not require a gradient. Integers that a ``DequantizeLinear`` turns into a weight are
    one, quantised again when written back.

    ``include`` and ``exclude`` are patterns (as in fnmatch) of the parameters to train and of those not to, by their
    name in the model or that of their tensor in the file; the others do not require a gradient.

    A batch size that the file fixes is not kept: the model takes any number of images and does to each what the file
    does to it, also where an operator works across the batch (see :mod:`.batch`). An output is put together along the
    dimension of the batch or, where that has not come through, the first. Only a net whose sizes depend on the numbers
    of an image keeps its batch, and raises :class:`InputError` for another.

    ``model.meta["onnx"]`` is the :class:`~reparam_kit.onnx.provenance.Provenance`.

    Raises:
        InputError: the file cannot be read, is not an ONNX model, or contradicts itself; or a pattern matches nothing.
        UnsupportedError: it has an operator, or an operator's attribute, that cannot be imported.
    """
    path = Path(path)
    payload = read_file(path, "an .onnx file")
    model = import_file(read_onnx(path, payload), payload, path)
    train_only(model, include, exclude)
    return model


def import_file(file: OnnxFile, payload: bytes, path: Path | None = None) -> fx.GraphModule:
    """Import, as :func:`import_onnx` does, a file already read: ``payload`` holds its bytes, ``path`` says where it
    was.

    ``file`` is used up.
    """
    for tensor in all_tensors(file.model):
        if is_external(tensor):
            tensor.CopyFrom(numpy_helper.from_array(file.read(tensor), tensor.name))
    constants = {
        node.output[0] for node in file.model.graph.node if node.op_type == "Constant" and node.output
    }
    try:
        model, sources = _import(inlined(file.model), constants)
    except (InputError, UnsupportedError) as error:
        raise type(error)(f"{path or 'the ONNX model'}: {error}") from error
    model.meta["onnx"] = Provenance(
        path, payload, sources, {location: bytes(data) for location, data in file.external.items()}
    )
    return model


_log = logging.getLogger(__name__)

# Sizes to try for the dimensions that a file leaves free: a net with many poolings needs a large image.
_SIZES = (64, 224, 512)

# Operators of which only the first input has a batch.
_WEIGHTED = {
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "Gemm",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "PRelu",
}


def _import(model: ModelProto, constants: set[str]) -> tuple[fx.GraphModule, dict[str, Source]]:
    """Return the imported model, and the sources of its tensors, by the first example input that shows what is asked
    for.

    A batch that the file fixes stays as it is where something cannot be done for each image.
    """
    graph = model.graph
    _check_names(graph)
    weights = {tensor.name for tensor in graph.initializer}
    weights.update(name for node in graph.node if node.op_type in _WEIGHTED for name in node.input[1:])
    shapes = [info.type.tensor_type.shape.dim for info in graph.input if info.name not in weights]
    fixed = next((shape[0].dim_value for shape in shapes if len(shape) > 1), 0)
    batch = fixed if fixed > 0 else None
    batched = {
        info.name
        for info in graph.input
        if info.name not in weights and _first_size(info) in ((0,) if batch is None else (0, batch))
    }
    free = any(dim.dim_value <= 0 for shape in shapes for dim in shape[len(shape) > 1 :])
    tries = list(product((True,) if batch is None else (True, False), _SIZES if free else (1,)))

    def attempt(frees: bool, size: int) -> tuple[fx.GraphModule, dict[str, Source]]:
        builder = Builder(constants, batch, frees, free)
        examples = {
            info.name: input_example(
                info.type.tensor_type, (batch or ROWS) if info.name in batched else None, size
            )
            for info in graph.input
        }
        return _Import(model, builder, examples, batched).run(), builder.sources

    for frees, size in tries[:-1]:
        with suppress(UnknownError, KeptBatchError):
            return attempt(frees, size)
    return attempt(*tries[-1])


def _first_size(info: ValueInfoProto) -> int | None:
    """Return the first dimension of an input with several; 0 where it is free."""
    dims = info.type.tensor_type.shape.dim
    return max(dims[0].dim_value, 0) if len(dims) > 1 else None


class _Import:
    def __init__(
        self,
        model: ModelProto,
        builder: Builder,
        examples: Mapping[str, Tensor | None],
        batched: Collection[str],
    ) -> None:
        self._batched = batched
        self._opsets = _opsets(model)
        self._graph: GraphProto = model.graph
        self._builder = builder
        self._examples = examples
        self._values: dict[str, Value] = {}
        self._read = {name for node in model.graph.node for name in node.input}
        self._read.update(output.name for output in model.graph.output)

    def run(self) -> fx.GraphModule:
        if self._graph.sparse_initializer:
            raise UnsupportedError(
                "sparse initializers are not supported; export the model with dense weights"
            )
        stored = {tensor.name: tensor for tensor in self._graph.initializer}
        # Before IR version 4, initializers are inputs too.
        types = {info.name: info.type.tensor_type.elem_type for info in self._graph.input}
        inputs = [name for name in types if name not in stored]
        for i, name in enumerate(inputs):
            optional = self._read.isdisjoint(inputs[i:])
            value = self._builder.input(name, self._examples[name], optional, name in self._batched)
            dtype = dtype_of(types[name])
            if dtype.is_floating_point and held(dtype) != dtype and not optional:
                value = self._builder.call(widened, (value,))
            self._values[name] = typed(value, dtype)
        for name in stored.keys() & self._read:
            tensor = to_tensor(decode(stored[name]), stored[name].data_type)
            key, dtype = TensorKey("initializer", name), dtype_of(stored[name].data_type)
            self._values[name] = self._builder.constant(key, tensor, dtype)
        slow, images = [], self._builder.images
        for node in _in_order(self._graph.node, self._values):
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
                slow.append(place_of(node))
        model = self._builder.finish([self._value(output.name) for output in self._graph.output])
        if slow:
            _log.warning(
                "the file fixes its batch, and what it does across it is done image by image, which is slow: in %s%s",
                printable(slow[0]),
                f" and {len(slow) - 1} more nodes" if slow[1:] else "",
            )
        return model

    def _import(self, node: NodeProto) -> Iterator[tuple[str, Value]]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        opset = self._opsets.get(domain, 1)
        inputs = [self._value(name) if name else None for name in node.input]
        results = imported(Op(node, domain, opset, inputs, self._builder))
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


def _in_order(nodes: Iterable[NodeProto], known: Iterable[str]) -> Iterator[NodeProto]:
    """Yield each node once what it reads is there, else in the order of the file: some converters append nodes at the
    end.

    Those for which it never is come last.
    """
    nodes, known = list(nodes), {"", *known}
    missing = [set(node.input) - known for node in nodes]
    readers: dict[str, list[int]] = defaultdict(list)
    for i, names in enumerate(missing):
        for name in names:
            readers[name].append(i)
    # By how often the file is gone through before, then as the file has them.
    ready = [(0, i) for i, names in enumerate(missing) if not names]
    while ready:
        turn, i = heappop(ready)
        yield nodes[i]
        for name in nodes[i].output:
            for reader in readers.pop(name, ()):
                missing[reader].remove(name)
                if not missing[reader]:
                    heappush(ready, (turn + (reader < i), reader))
    yield from (node for node, names in zip(nodes, missing, strict=True) if names)


def _check_names(graph: GraphProto) -> None:
    if not all(node.op_type and node.output for node in graph.node):
        raise InputError("the file is damaged: it has a node without an operator or without an output")
    if not graph.output:
        raise InputError("the file is damaged: its graph has no outputs")
    inputs, stored = [info.name for info in graph.input], [tensor.name for tensor in graph.initializer]
    computed = [name for node in graph.node for name in node.output if name]
    # Before IR version 4, initializers are inputs too.
    for names in (inputs, [*stored, *computed], [*computed, *inputs]):
        for name, count in Counter(names).items():
            if count > 1:
                raise InputError(f"the file is damaged: two of its values are called {name!r}")


def _opsets(model: ModelProto) -> dict[str, int]:
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    opset = opsets.get("", OLDEST_OPSET)
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise UnsupportedError(
            f"opset {opset} is not one of {OLDEST_OPSET} to {NEWEST_OPSET}, which can be imported; "
            "convert the file with onnx.version_converter"
        )
    return opsets
