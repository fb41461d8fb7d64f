"""What differs between two ONNX files: the graph, or only the numbers of its weights.

The weights are taken out of both (``OnnxFile.structure``); if what is left serialises to the same bytes, the graphs
are the same. Only otherwise are the two walked to say where they part, field by field as the schema lists them, so
that none is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, MutableSequence, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from onnx import ModelProto, NodeProto, TensorProto

from reparam_kit.errors import InputError
from reparam_kit.onnx.changes import Change, PayloadChange, StructuralDiff, change, measure
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.match import match
from reparam_kit.onnx.scales import OwnScale, Scales, places_of, require_scales, scale_changes
from reparam_kit.onnx.weights import OnnxFile, decode, dtype_name, read_onnx, stored_tensors, weights


def diff(
    a: str | Path | ModelProto, b: str | Path | ModelProto, *, scales: Scales = "kept"
) -> StructuralDiff:
    """Compare two ONNX models, given as files or parsed.

    The order of nodes, inputs, initializers and attributes counts, as does everything else in the file but the
    numbers of weights (see :mod:`reparam_kit.onnx.weights`) and the names of external data files.
    With ``scales="weights"``, so do the scales that belong to a quantised weight alone, and of its bias if that has
    followed (see :mod:`reparam_kit.onnx.scales`).

    Raises:
        InputError: a file is missing, damaged or not an ONNX model, or a parsed model has external data (its folder
            is then unknown: give its path).

    >>> difference = diff("deployed.onnx", "better.onnx")
    >>> difference.same_graph, len(difference.payloads)
    (True, 1)
    """
    free = require_scales(scales)
    first, second = (OnnxFile(m, {}) if isinstance(m, ModelProto) else read_onnx(m) for m in (a, b))
    return compare(first, second, places_of(first) if free else ())


def compare(a: OnnxFile, b: OnnxFile, places: Collection[OwnScale] = ()) -> StructuralDiff:
    """Compare, as :func:`diff` does, models already read, of which the scales at ``places`` may differ."""
    changes = list(scale_changes(a, b, places))
    free = [key for place in places for key in (place.key, place.bias) if key is not None]
    before, after = a.structure(free), b.structure(free)
    if before.SerializeToString(deterministic=True) != after.SerializeToString(deterministic=True):
        changes += _walk(before, after, "")
        if not changes:
            changes = [Change("changed", "a field that the installed onnx does not know", "...", "...")]
    numbers = [key for key in weights(a.model) if key not in free]
    payloads, scales = (tuple(_payloads(a, b, keys)) for keys in (numbers, free))
    return StructuralDiff(tuple(changes), payloads, bool(changes) and _renamed(a, b), scales)


def _renamed(a: OnnxFile, b: OnnxFile) -> bool:
    try:
        return not match(a, b).differences
    except InputError:  # a damaged graph can still be told from another
        return False


def _payloads(a: OnnxFile, b: OnnxFile, keys: Iterable[TensorKey]) -> Iterator[PayloadChange]:
    tensors, others = stored_tensors(a.model), stored_tensors(b.model)
    for key in keys:
        tensor, other = tensors[key], others.get(key)
        if other is None or (other.dims, other.data_type) != (tensor.dims, tensor.data_type):
            continue
        before, after = a.read(tensor), b.read(other)
        if before.tobytes() != after.tobytes():
            yield measure(str(key), dtype_name(tensor), before, after)


# Message -> what identifies one among its neighbours, tried in turn. The others go by position.
_KEYS: dict[str, tuple[Callable[[Any], tuple[str, ...]], ...]] = {
    "NodeProto": (lambda node: tuple(node.output), lambda node: (node.name,) if node.name else ()),
    "FunctionProto": (lambda function: (function.domain, function.name, function.overload),),
    "OperatorSetIdProto": (lambda opset: (opset.domain,),),
    "StringStringEntryProto": (lambda entry: (entry.key,),),
    "TensorAnnotation": (lambda annotation: (annotation.tensor_name,),),
    **dict.fromkeys(
        ("AttributeProto", "GraphProto", "TensorProto", "ValueInfoProto"), (lambda item: (item.name,),)
    ),
}


def _walk(a: Message, b: Message, where: str) -> Iterator[Change]:
    for field in a.DESCRIPTOR.fields:
        place = f"{where}.{field.name}" if where else field.name
        before, after = getattr(a, field.name), getattr(b, field.name)
        if isinstance(before, MutableSequence):
            if field.message_type is not None:
                yield from _walk_items(before, after, place)
            elif list(before) != list(after):
                yield change("changed", place, _text(a, field), _text(b, field))
            continue
        had, has = a.HasField(field.name), b.HasField(field.name)
        if had and has and field.message_type is not None:
            yield from _walk(before, after, place)
        elif had and has and before != after:
            yield change("changed", place, _text(a, field), _text(b, field))
        elif had and not has:
            yield change("removed", place, _text(a, field), None)
        elif has and not had:
            yield change("added", place, None, _text(b, field))


def _walk_items(before: Sequence[Message], after: Sequence[Message], where: str) -> Iterator[Change]:
    pairs = _pair(before, after)
    for i, item in enumerate(before):
        if i not in pairs:
            yield change("removed", f"{where}[{_label(item, i)}]", _line(item), None)
    for j, item in enumerate(after):
        if j not in pairs.values():
            yield change("added", f"{where}[{_label(item, j)}]", None, _line(item))
    partners = list(pairs.values())
    if partners != sorted(partners):
        orders = [", ".join(_label(after[j], j) for j in order) for order in (partners, sorted(partners))]
        yield change("reordered", where, *orders)
    for i, j in pairs.items():
        yield from _walk(before[i], after[j], f"{where}[{_label(before[i], i)}]")


def _pair(before: Sequence[Message], after: Sequence[Message]) -> dict[int, int]:
    """Positions of the items that are the same thing in both lists, in the order of ``before``."""
    keys = _KEYS.get((*before, *after)[0].DESCRIPTOR.name) if before or after else None
    if keys is None:
        return {i: i for i in range(min(len(before), len(after)))}
    pairs: dict[int, int] = {}
    for key in keys:
        waiting: dict[tuple[str, ...], list[int]] = {}
        for j in sorted(set(range(len(after))) - set(pairs.values())):
            waiting.setdefault(key(after[j]), []).append(j)
        for i in sorted(set(range(len(before))) - set(pairs)):
            if key(before[i]) and waiting.get(key(before[i])):
                pairs[i] = waiting[key(before[i])].pop(0)
    return dict(sorted(pairs.items()))


def _label(item: Message, position: int) -> str:
    if isinstance(item, NodeProto):
        return item.name or ", ".join(item.output) or str(position)
    keys = _KEYS.get(item.DESCRIPTOR.name)
    return ".".join(keys[0](item)) if keys else str(position)


def _text(message: Message, field: Any) -> str:
    value = getattr(message, field.name)
    if isinstance(message, TensorProto) and field.name == "raw_data":
        return str(decode(message, value).tolist()) if value else "the numbers of a weight"
    enum = TensorProto.DataType.DESCRIPTOR if field.name in ("data_type", "elem_type") else field.enum_type
    if enum is not None:
        named = enum.values_by_number.get(value)
        return named.name if named else str(value)
    if isinstance(value, MutableSequence):
        return str(list(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return _line(value) if isinstance(value, Message) else str(value) or "''"


def _line(message: Message) -> str:
    if isinstance(message, NodeProto):
        return f"{message.op_type}({', '.join(message.input)}) -> {', '.join(message.output)}"
    return " ".join(str(message).split())
