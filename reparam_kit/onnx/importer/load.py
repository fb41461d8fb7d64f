"""From an ONNX file to a model: node after node, each by the importer registered for its operator."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path

from onnx import GraphProto, ModelProto, ValueInfoProto, numpy_helper
from torch import Tensor, fx

from reparam_kit.errors import InputError, UnsupportedError, printable
from reparam_kit.files import read_file
from reparam_kit.onnx.external import is_external
from reparam_kit.onnx.importer.batch import KeptBatchError
from reparam_kit.onnx.importer.builder import Builder
from reparam_kit.onnx.importer.ends import Ends, find_ends
from reparam_kit.onnx.importer.example import ROWS, input_example
from reparam_kit.onnx.importer.following import let_scales_follow
from reparam_kit.onnx.importer.functions import inlined
from reparam_kit.onnx.importer.op import UnknownError
from reparam_kit.onnx.importer.trainable import train_only
from reparam_kit.onnx.importer.twin import start_at
from reparam_kit.onnx.importer.walk import Import
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.part import cut
from reparam_kit.onnx.provenance import Provenance
from reparam_kit.onnx.scales import Scales, require_scales
from reparam_kit.onnx.weights import OnnxFile, all_tensors, read_onnx, stored_tensors


def import_onnx(
    path: str | Path,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    float: str | Path | None = None,
    scales: Scales = "kept",
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

    With ``scales="weights"`` the scale of a quantised weight becomes wider where training moves the weight beyond the
    last level of the file, if the file has a place for it, see :mod:`.following`.

    A batch size that the file fixes is not kept: the model takes any number of images and does to each what the file
    does to it, also where an operator works across the batch (see :mod:`.batch`). An output is put together along the
    dimension of the batch or, where that has not come through, the first. Only a net whose sizes depend on the numbers
    of an image keeps its batch, and raises :class:`InputError` for another.

    ``model.meta["onnx"]`` is the :class:`~reparam_kit.onnx.provenance.Provenance`.

    Raises:
        InputError: the file cannot be read, is not an ONNX model, contradicts itself, or has no such output; a pattern
            matches nothing; the file was not quantised from ``float``, or has no scale that could follow a weight.
        UnsupportedError: it has an operator, or an operator's attribute, that cannot be imported. The message says
            where the import could end.
    """
    path, follow = Path(path), require_scales(scales)
    payload = read_file(path, "an .onnx file")
    model = import_file(read_onnx(path, payload), payload, path, outputs)
    if follow:
        let_scales_follow(model)
    if float is not None:
        start_at(model, float)
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
    graph, stored = file.model.graph, set(stored_tensors(file.model))
    try:
        _check_names(graph)
        elsewhere = cut(file.model, outputs) if outputs else set()
        done = _import(inlined(file.model), stored, elsewhere)
    except (InputError, UnsupportedError) as error:
        ends = _ends(file.model, stored) if isinstance(error, UnsupportedError) else None
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


def _ends(model: ModelProto, stored: Collection[TensorKey]) -> Ends | None:
    """Return where the import of ``model``, which fails, could end; None where it could nowhere."""
    with suppress(InputError, UnsupportedError):
        whole = inlined(model)
        *_, last = _attempts(whole, stored)
        reached, values = last().reached()
        named = {name for node in model.graph.node for name in node.output}
        ends = find_ends(whole.graph.node, reached, values & named)
        if ends.names:
            part = ModelProto()
            part.CopyFrom(model)
            _import(inlined(part), stored, cut(part, ends.names))
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


def _import(model: ModelProto, stored: Collection[TensorKey], elsewhere: Collection[str]) -> Import:
    """Return what has imported the model by the first example input that shows what is asked for."""
    *others, last = _attempts(model, stored, elsewhere)
    for attempt in others:
        with suppress(UnknownError, KeptBatchError):
            return _decided(attempt)
    return _decided(last)


def _decided(attempt: Callable[..., Import]) -> Import:
    """Return the import, if it is the same for other sizes that the file leaves open: those decide nothing."""
    done = attempt().run()
    if done.decisions and done.sizes_open:
        try:
            again = attempt(other=True).run().decisions
        except (InputError, UnsupportedError):
            again = {}
        for place, taken in done.decisions.items():
            if again.get(place) is not taken:
                raise UnsupportedError(f"{place}: its condition depends on sizes that the file leaves open")
    return done


def _attempts(
    model: ModelProto, stored: Collection[TensorKey], elsewhere: Collection[str] = ()
) -> list[Callable[..., Import]]:
    """Return ways to import the model, in the order to try them.

    A batch that the file fixes stays as it is where something cannot be done for each image. With ``other`` a way takes
    other sizes where the file leaves them open.
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

    def attempt(frees: bool, size: int, other: bool = False) -> Import:
        rows = 1 if other else ROWS

        def example(info: ValueInfoProto) -> Tensor | None:
            images = (batch or rows) if info.name in batched else None
            return input_example(info.type.tensor_type, images, 2 * size if other else size)

        builder = Builder(stored, batch, frees, free, elsewhere, rows)
        return Import(model, builder, example, batched)

    tries = product((True,) if batch is None else (True, False), _SIZES if free else (1,))
    return [partial(attempt, *each) for each in tries]


def _first_size(info: ValueInfoProto) -> int | None:
    """Return the first dimension of an input with several; 0 where it is free."""
    dims = info.type.tensor_type.shape.dim
    return max(dims[0].dim_value, 0) if len(dims) > 1 else None


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
