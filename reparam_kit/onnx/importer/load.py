"""From an ONNX file to a model: node after node, each by the importer registered for its operator."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import product, zip_longest
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, numpy_helper
from torch import Tensor, fx

from reparam_kit.errors import InputError, UnsupportedError, first_line, is_own_fault, printable
from reparam_kit.files import read_file
from reparam_kit.onnx.external import is_external
from reparam_kit.onnx.importer.batch import KeptBatchError
from reparam_kit.onnx.importer.builder import Builder
from reparam_kit.onnx.importer.ends import Ends, find_ends
from reparam_kit.onnx.importer.example import ROWS, example, input_example
from reparam_kit.onnx.importer.functions import inlined
from reparam_kit.onnx.importer.levels import integers
from reparam_kit.onnx.importer.op import Op, UnknownError, place_of
from reparam_kit.onnx.importer.order import in_order
from reparam_kit.onnx.importer.registry import NEWEST_OPSET, OLDEST_OPSET, find_importer, imported
from reparam_kit.onnx.importer.surroundings import Surroundings
from reparam_kit.onnx.importer.trainable import train_only
from reparam_kit.onnx.importer.twin import start_at
from reparam_kit.onnx.importer.values import Value, dtype_of, held, to_tensor, typed, widened
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.part import cut, names_read
from reparam_kit.onnx.provenance import Provenance
from reparam_kit.onnx.weights import OnnxFile, all_tensors, decode, read_onnx


def import_onnx(
    path: str | Path,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    float: str | Path | None = None,
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

    With ``outputs`` the model ends at values within the graph, by their names, and takes the inputs that these depend
    on. What lies behind them is not read, whatever operators it has, and is written back as it is. Weights that it uses
    too do not require a gradient.

    ``float`` is the float net that the file was quantised from: its weights then start at that one's numbers, as far as
    these round to the file's integers, see :mod:`.twin`.

    A batch size that the file fixes is not kept: the model takes any number of images and does to each what the file
    does to it, also where an operator works across the batch (see :mod:`.batch`). An output is put together along the
    dimension of the batch or, where that has not come through, the first. Only a net whose sizes depend on the numbers
    of an image keeps its batch, and raises :class:`InputError` for another.

    ``model.meta["onnx"]`` is the :class:`~reparam_kit.onnx.provenance.Provenance`.

    Raises:
        InputError: the file cannot be read, is not an ONNX model, contradicts itself, or has no such output; a pattern
            matches nothing; or the file was not quantised from ``float``.
        UnsupportedError: it has an operator, or an operator's attribute, that cannot be imported. The message says
            where the import could end.
    """
    path = Path(path)
    payload = read_file(path, "an .onnx file")
    model = import_file(read_onnx(path, payload), payload, path, outputs)
    if float is not None:
        start_at(model, read_onnx(float), str(float))
    train_only(model, include, exclude)
    return model


def import_file(
    file: OnnxFile, payload: bytes, path: Path | None = None, outputs: Sequence[str] | None = None
) -> fx.GraphModule:
    """Import, as :func:`import_onnx` does, a file already read: ``payload`` holds its bytes, ``path`` says where it
    was.

    ``file`` is used up.
    """
    for tensor in all_tensors(file.model):
        if is_external(tensor):
            tensor.CopyFrom(numpy_helper.from_array(file.read(tensor), tensor.name))
    graph = file.model.graph
    constants = {node.output[0] for node in graph.node if node.op_type == "Constant" and node.output}
    try:
        _check_names(graph)
        elsewhere = cut(file.model, outputs) if outputs else set()
        done = _import(inlined(file.model), constants, elsewhere)
    except (InputError, UnsupportedError) as error:
        ends = _ends(file.model, constants) if isinstance(error, UnsupportedError) else None
        hint = "" if ends is None else f"; {ends}"
        raise type(error)(f"{path or 'the ONNX model'}: {error}{hint}") from error
    if done.slow:
        _log.warning(
            "the file fixes its batch, and what it does across it is done image by image, which is slow: in %s%s",
            printable(done.slow[0]),
            f" and {len(done.slow) - 1} more nodes" if done.slow[1:] else "",
        )
    done.model.meta["onnx"] = Provenance(
        path,
        payload,
        done.sources,
        {location: bytes(data) for location, data in file.external.items()},
        tuple(done.inputs),
        tuple(output.name for output in graph.output),
        bool(outputs),
    )
    return done.model


def _ends(model: ModelProto, constants: set[str]) -> Ends | None:
    """Return where the import of ``model``, which fails, could end; None where it could nowhere."""
    with suppress(InputError, UnsupportedError):
        whole = inlined(model)
        *_, last = _attempts(whole, constants)
        reached, values = last().reached()
        named = {name for node in model.graph.node for name in node.output}
        ends = find_ends(whole.graph.node, reached, values & named)
        if ends.names:
            part = ModelProto()
            part.CopyFrom(model)
            _import(inlined(part), constants, cut(part, ends.names))
            return ends
    return None


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


def _import(model: ModelProto, constants: set[str], elsewhere: Collection[str]) -> _Import:
    """Return what has imported the model by the first example input that shows what is asked for."""
    *others, last = _attempts(model, constants, elsewhere)
    for attempt in others:
        with suppress(UnknownError, KeptBatchError):
            return attempt().run()
    return last().run()


def _attempts(
    model: ModelProto, constants: set[str], elsewhere: Collection[str] = ()
) -> list[Callable[[], _Import]]:
    """Return ways to import the model, in the order to try them.

    A batch that the file fixes stays as it is where something cannot be done for each image.
    """
    graph = model.graph
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

    def attempt(frees: bool, size: int) -> _Import:
        def example(info: ValueInfoProto) -> Tensor | None:
            rows = (batch or ROWS) if info.name in batched else None
            return input_example(info.type.tensor_type, rows, size)

        return _Import(model, Builder(constants, batch, frees, free, elsewhere), example, batched)

    tries = product((True,) if batch is None else (True, False), _SIZES if free else (1,))
    return [partial(attempt, *each) for each in tries]


def _first_size(info: ValueInfoProto) -> int | None:
    """Return the first dimension of an input with several; 0 where it is free."""
    dims = info.type.tensor_type.shape.dim
    return max(dims[0].dim_value, 0) if len(dims) > 1 else None


class _Import:
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
        self._values: dict[str, Value] = {}
        self._surroundings = Surroundings(model.graph, self._values)
        self._read = {name for node in model.graph.node for name in names_read(node)}
        self._read.update(output.name for output in model.graph.output)
        self._stored = {tensor.name: tensor for tensor in self._graph.initializer}
        # Before IR version 4, initializers are inputs too.
        self.inputs = [info.name for info in self._graph.input if info.name not in self._stored]
        self.sources = builder.sources
        self.slow: list[str] = []  # the nodes that are run image by image

    def run(self) -> _Import:
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
        """Return the nodes that can be imported, and the floating-point values that these compute at run time."""
        for name in (*self.inputs, *(self._stored.keys() & self._read)):
            with suppress(InputError, UnsupportedError):
                self._values[name] = self._given(name)
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
            tensor = self._stored[name]
            key, dtype = TensorKey("initializer", name), dtype_of(tensor.data_type)
            return self._builder.constant(key, to_tensor(decode(tensor), tensor.data_type), dtype)
        [info] = [info for info in self._graph.input if info.name == name]
        optional = self._read.isdisjoint(self.inputs[self.inputs.index(name) :])
        value: Value = self._builder.input(name, self._example(info), optional, name in self._batched)
        dtype = dtype_of(info.type.tensor_type.elem_type)
        if dtype.is_floating_point and held(dtype) != dtype and not optional:
            value = self._builder.call(widened, (value,))
        return typed(value, dtype)

    def _import(self, node: NodeProto) -> Iterator[tuple[str, Value]]:
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
    return isinstance(known, Tensor) and known.dtype.is_floating_point and integers(value) is None


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
