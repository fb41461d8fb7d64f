"""Which numbers of an ONNX file are weights, and how they are read, written and left out of a comparison.

A weight is a floating-point tensor, an initializer or the ``value`` of a ``Constant`` node, that no operator
takes as a setting, or an integer tensor that a ``DequantizeLinear``, or a ``Cast``, turns into one, or that an
operator on integers multiplies by or adds. Everything else is structure: other integer tensors (a ``Reshape`` target,
axes, indices) decide shapes, and a few inputs were attributes in earlier opsets or act like them (``_SETTINGS``).
Training changes weights only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from reparam_kit.digests import fingerprint
from reparam_kit.errors import InputError
from reparam_kit.files import read_file
from reparam_kit.kinds import ONNX, kind_of
from reparam_kit.onnx.external import address, external_files, is_external
from reparam_kit.onnx.keys import Place, TensorKey

# The types a weight is stored in, by itself or as levels of a quantisation.
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
_PACKED = {
    "INT4": 4,
    "UINT4": 4,
    "INT2": 2,
    "UINT2": 2,
}  # bits of a number; not every version of onnx has all
_LEVELS = {
    number
    for name, number in TensorProto.DataType.items()
    if name in {"INT8", "UINT8", "INT16", "UINT16", "INT32", *_PACKED}
}
# Of these, the types of tensors with several dimensions that a Cast to numbers, too, makes a weight.
DEQUANTISED = _LEVELS - {TensorProto.INT32}

# Operator -> positions of its floating-point inputs that it, or its predecessor, once held in attributes, or that say
# how other inputs are to be read.
_SETTINGS = {
    "Clip": (1, 2),
    "DequantizeLinear": (1,),
    "DynamicQuantizeMatMul": (2,),
    "Dropout": (1,),
    "Pad": (2,),
    "QuantizeLinear": (1,),
    "Resize": (1, 2),
    "Upsample": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
    "QGemm": (1, 4, 7),
    "MatMulIntegerToFloat": (2, 3),
    "MatMulNBits": (2, 3),
}

# Operator -> positions of its inputs whose integers are levels of a weight.
_WEIGHTS = {
    "DequantizeLinear": (0,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
    "QGemm": (3, 6),
    "ConvInteger": (1,),
    "MatMulInteger": (1,),
    "MatMulIntegerToFloat": (1,),
    "DynamicQuantizeMatMul": (1,),
    "MatMulNBits": (1,),
}

# Operators that only arrange the numbers of their first input, or keep them in bounds.
LAYOUT = {"Clip", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}

_Scope = tuple[tuple[Place, ...], Iterable[NodeProto], Iterable[TensorProto]]


@dataclass(frozen=True)
class OnnxFile:
    """A model, with the content of the files in which it keeps tensors outside itself (location -> bytes)."""

    model: ModelProto
    external: Mapping[str, bytes | bytearray]

    def read(self, tensor: TensorProto) -> NDArray[Any]:
        """Return the numbers of ``tensor``, in its shape and dtype.

        Raises:
            InputError: its data does not fill its shape, or lies in an external file that was not read.
        """
        if is_external(tensor):
            return decode(tensor, self._external_bytes(tensor))
        return decode(tensor)

    def write(self, tensor: TensorProto, values: NDArray[Any]) -> None:
        """Put ``values`` in the place of the numbers of the weight ``tensor``, stored as those were.

        External data must be held in a ``bytearray``.
        """
        new = rounded(values, tensor)
        width = _PACKED.get(TensorProto.DataType.Name(tensor.data_type))
        if width is not None:
            new = _packed(new, width)
        bits = new.tobytes()
        if is_external(tensor):
            location, start, _ = address(tensor)
            data = self.external[location]
            assert isinstance(data, bytearray)
            data[start : start + len(bits)] = bits
        elif tensor.HasField("raw_data"):
            tensor.raw_data = bits
        elif tensor.data_type == TensorProto.FLOAT:
            tensor.float_data[:] = new.tolist()
        elif tensor.data_type == TensorProto.DOUBLE:
            tensor.double_data[:] = new.tolist()
        elif tensor.data_type in _LEVELS:
            tensor.int32_data[:] = new.tolist()
        else:  # the two half types are stored as their bits, each in an int32
            tensor.int32_data[:] = new.view(np.uint16).tolist()

    def structure(self, besides: Collection[TensorKey] = ()) -> ModelProto:
        """Return a copy of the model without its weights' numbers and without the names of its external files.

        Tensors ``besides`` count as weights.

        Two files have equal structure when these copies are equal. How a weight is stored (dtype, shape, raw,
        typed or external, offset) is part of it; so are the numbers of all tensors that are no weights, wherever
        they lie.
        """
        model = ModelProto()
        model.CopyFrom(self.model)
        for tensor in all_tensors(model):
            if is_external(tensor):
                tensor.raw_data = self._external_bytes(tensor)
                for entry in tensor.external_data:
                    if entry.key in ("location", "checksum"):
                        entry.value = ""
        stored = stored_tensors(model)
        for tensor in [*weights(model).values(), *(stored[key] for key in besides if key in stored)]:
            if tensor.HasField("raw_data"):
                tensor.raw_data = b""
            for field in ("float_data", "int32_data", "double_data"):
                tensor.ClearField(field)
        return model

    def _external_bytes(self, tensor: TensorProto) -> bytes:
        location, start, stop = address(tensor)
        if location not in self.external:
            raise InputError(
                f"tensor {tensor.name!r} lies in the file {location!r}; give the model by its path"
            )
        return bytes(self.external[location][start:stop])


def read_onnx(path: str | Path, payload: bytes | None = None) -> OnnxFile:
    """Read a model and its external data; ``payload`` is the content of ``path`` if that was read already.

    Raises:
        InputError: a file is missing, is not an ONNX model, or the model points outside its own folder.
    """
    path = Path(path)
    model = parse_onnx(read_file(path, "an .onnx file") if payload is None else payload, str(path))
    files = external_files(all_tensors(model), path)
    return OnnxFile(
        model, {location: read_file(file, "an .onnx file") for location, file in sorted(files.items())}
    )


def onnx_fingerprint(path: str | Path) -> str:
    """Return the sha256, in hex, of all bytes of a model's file and of the files in which it keeps tensors.

    Raises:
        InputError: as :func:`read_onnx`.

    >>> onnx_fingerprint("deployed.onnx") == onnx_fingerprint("better.onnx")
    False
    """
    payload = read_file(Path(path), "an .onnx file")
    return fingerprint([payload, read_onnx(path, payload).external])


def parse_onnx(payload: bytes, name: str) -> ModelProto:
    """Return the model in ``payload``, the content of the file ``name``.

    Raises:
        InputError: it is not an ONNX model.
    """
    model = ModelProto()
    try:
        model.ParseFromString(payload)
    except DecodeError as error:
        raise InputError(
            _another(payload, name) or f"{name} is not an ONNX model, or is truncated: {error}"
        ) from error
    if not model.HasField("graph"):
        raise InputError(_another(payload, name) or f"{name} is not an ONNX model: it has no graph")
    if not _is_text(model):
        raise InputError(f"{name} is damaged: one of its names is not UTF-8 text")
    return model


def _another(payload: bytes, name: str) -> str | None:
    """Return what to say of a file of another kind; None where nothing tells of which."""
    kind = kind_of(name, payload)
    return None if kind in (None, ONNX) else f"{name} {kind.says}"


def stored_tensors(model: ModelProto) -> dict[TensorKey, TensorProto]:
    """Find every initializer and every ``value`` of a ``Constant`` node, also of sub-graphs and functions."""
    return dict(_stored_tensors(model))


def weights(model: ModelProto) -> dict[TensorKey, TensorProto]:
    """Return the part of :func:`stored_tensors` that training may change."""
    nodes = [node for _, nodes, _ in scopes(model) for node in nodes]
    settings, levels = _inputs(nodes, _SETTINGS), _laid_out(_inputs(nodes, _WEIGHTS), nodes)
    casts = {node.input[0] for node in nodes if node.op_type == "Cast" and node.input and _is_floating(node)}
    numbers = _laid_out(casts, nodes)

    def is_weight(name: str, tensor: TensorProto) -> bool:
        if name in numbers and len(tensor.dims) > 1 and tensor.data_type in DEQUANTISED:
            return True
        return tensor.data_type in (_LEVELS if name in levels else _FLOATS)

    return {
        key: tensor
        for key, tensor in _stored_tensors(model)
        if key.name not in settings and is_weight(key.name, tensor)
    }


def _is_floating(cast: NodeProto) -> bool:
    return any(attribute.name == "to" and attribute.i in _FLOATS for attribute in cast.attribute)


def _laid_out(names: set[str], nodes: Iterable[NodeProto]) -> set[str]:
    """Return ``names`` and of which values they are another layout."""
    laid_out = {node.output[0]: node.input[0] for node in nodes if node.op_type in LAYOUT and node.input}
    found: set[str] = set()
    for name in names:
        while name not in found:
            found.add(name)
            name = laid_out.get(name, name)
    return found


def _inputs(nodes: Iterable[NodeProto], positions: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Return what stands at those ``positions`` of operators."""
    return {
        node.input[position]
        for node in nodes
        for position in positions.get(node.op_type, ())
        if position < len(node.input)
    }


def all_tensors(message: Message) -> Iterator[TensorProto]:
    """Yield every tensor anywhere in ``message``: initializers, attributes, those of sub-graphs."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in (value,) if isinstance(value, Message) else value:
                yield from all_tensors(item)


def decode(tensor: TensorProto, raw_data: bytes | None = None) -> NDArray[Any]:
    """Return the numbers that ``tensor`` holds itself, or those of ``raw_data`` in its shape and dtype.

    Raises:
        InputError: the data does not fill the shape.
    """
    if raw_data is not None:
        tensor = TensorProto(
            name=tensor.name, dims=tensor.dims, data_type=tensor.data_type, raw_data=raw_data
        )
    try:
        if min(tensor.dims, default=0) < 0:
            raise ValueError("a size below zero")
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"tensor {tensor.name!r} of shape {list(tensor.dims)} is damaged: {error}"
        ) from error


def rounded(values: NDArray[Any], tensor: TensorProto) -> NDArray[Any]:
    """Return ``values``, flat, as the dtype of the weight ``tensor`` holds them: rounded to nearest even, once."""
    with np.errstate(over="ignore", invalid="ignore"):  # too large becomes infinite
        return values.astype(np.float64).reshape(-1).astype(_dtype(tensor))


def dtype_name(tensor: TensorProto) -> str:
    """Return ``"float32"``, ``"bfloat16"``, ...: the dtype of a weight."""
    return str(_dtype(tensor))


def _dtype(tensor: TensorProto) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(tensor.data_type)


def _packed(values: NDArray[Any], width: int) -> NDArray[np.uint8]:
    """Return integers of ``width`` bits as bytes, the first in the lowest bits."""
    low = values.astype(np.int8).view(np.uint8) & (2**width - 1)
    rows = np.pad(low, (0, -len(low) % (8 // width))).reshape(-1, 8 // width)
    return np.asarray(np.bitwise_or.reduce(rows << np.arange(0, 8, width, dtype=np.uint8), axis=1))


def _is_text(message: Message) -> bool:
    """Return whether all its strings are text; protobuf gives ``bytes`` for one that is not."""
    for field, value in message.ListFields():
        items = [value] if isinstance(value, (str, bytes, Message)) else value
        if field.type == field.TYPE_STRING and any(isinstance(item, bytes) for item in items):
            return False
        if field.message_type is not None and not all(map(_is_text, items)):
            return False
    return True


def _stored_tensors(model: ModelProto) -> Iterator[tuple[TensorKey, TensorProto]]:
    for scope, nodes, initializers in scopes(model):
        for tensor in initializers:
            yield TensorKey("initializer", tensor.name, scope), tensor
        for node in nodes:
            if node.op_type == "Constant" and node.output:
                for attribute in node.attribute:
                    if attribute.name == "value":
                        yield TensorKey("constant", node.output[0], scope), attribute.t


def body_place(node: NodeProto, attribute: str, number: int = 0) -> Place:
    """Return which sub-graph of ``node`` is meant: that of an attribute, or one of its several."""
    return Place(f"{attribute} of {node.op_type} {node.name!r}", f"{number} of {node.output[:1]}")


def scopes(model: ModelProto) -> Iterator[_Scope]:
    """Yield place, nodes and initializers of the main graph, of every sub-graph and of every function."""

    def with_bodies(
        scope: tuple[Place, ...], nodes: Iterable[NodeProto], initializers: Iterable[TensorProto]
    ) -> Iterator[_Scope]:
        yield scope, nodes, initializers
        for node in nodes:
            for attribute in node.attribute:
                for number, graph in enumerate((attribute.g, *attribute.graphs)):
                    place = body_place(node, attribute.name, number)
                    yield from with_bodies((place, *scope), graph.node, graph.initializer)

    yield from with_bodies((), model.graph.node, model.graph.initializer)
    for function in model.functions:
        place = Place(f"function {function.name!r}", f"{function.domain}:{function.overload}")
        yield from with_bodies((place,), function.node, ())
