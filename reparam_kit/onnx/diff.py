"""What differs between two ONNX files: the graph, or only the numbers of its weights.

The weights are taken out of both (``OnnxFile.structure``); if what is left serialises to the same bytes, the graphs
are the same. Only otherwise are the two walked to say where they part, field by field as the schema lists them, so
that none is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from reparam_kit.onnx.weights import OnnxFile, decode, dtype_name, read_onnx, weights

What = Literal["added", "removed", "changed", "reordered"]


@dataclass(frozen=True)
class Change:
    """One structural difference. ``where`` is a path such as ``graph.node[conv1].attribute[strides].ints``."""

    what: What
    where: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.what == "added":
            return f"{self.where} added: {self.after}"
        if self.what == "removed":
            return f"{self.where} removed: {self.before}"
        return f"{self.where} {self.what}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class PayloadChange:
    """How far the numbers of one weight moved.

    ``max_abs`` is the largest absolute difference; ``max_ulp`` the largest distance counted in representable numbers
    (``None`` unless float32); ``relative_l2`` is |b - a| / |a| in the 2-norm (infinite where a is all zero).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float
    max_ulp: int | None
    relative_l2: float

    def __str__(self) -> str:
        ulp = "" if self.max_ulp is None else f" ({self.max_ulp} ulp)"
        size = f"{self.dtype}{list(self.shape)}"
        return f"{self.name} {size}: max {self.max_abs:.3g}{ulp}, relative {self.relative_l2:.3g}"


@dataclass(frozen=True)
class StructuralDiff:
    """Where two models differ in structure (``changes``), and which weights of equal shape and dtype differ."""

    changes: tuple[Change, ...]
    payloads: tuple[PayloadChange, ...]

    @property
    def same_graph(self) -> bool:
        """Whether nothing but the numbers of weights differs."""
        return not self.changes

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them; a number that is not finite becomes None."""
        return {"same_graph": self.same_graph, **plain(asdict(self))}

    def __str__(self) -> str:
        head = "same graph" if self.same_graph else f"different graphs, changes: {len(self.changes)}"
        farthest = sorted(self.payloads, key=lambda payload: payload.relative_l2, reverse=True)
        lines = [
            head,
            *_first(self.changes, 20),
            f"weights that differ: {len(farthest)}",
            *_first(farthest, 5),
        ]
        return "\n".join(lines)


def diff(a: str | Path | ModelProto, b: str | Path | ModelProto) -> StructuralDiff:
    """Compare two ONNX models, given as files or parsed.

    The order of nodes, inputs, initializers and attributes counts, as does everything else in the file but the
    numbers of weights (see :mod:`reparam_kit.onnx.weights`) and the names of external data files.

    Raises:
        InputError: a file is missing, damaged or not an ONNX model, or a parsed model has external data (its folder
            is then unknown: give its path).
    """
    first, second = (OnnxFile(m, {}) if isinstance(m, ModelProto) else read_onnx(m) for m in (a, b))
    return compare(first, second)


def compare(a: OnnxFile, b: OnnxFile) -> StructuralDiff:
    """:func:`diff` of models already read."""
    changes: tuple[Change, ...] = ()
    before, after = a.structure(), b.structure()
    if before.SerializeToString(deterministic=True) != after.SerializeToString(deterministic=True):
        changes = tuple(_walk(before, after, ""))
        if not changes:
            changes = (Change("changed", "a field that the installed onnx does not know", "...", "..."),)
    return StructuralDiff(changes, tuple(_payloads(a, b)))


def plain(value: Any) -> Any:
    """``value`` in JSON's types: tuples as lists, numbers that are not finite as None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measure(name: str, dtype: str, a: NDArray[Any], b: NDArray[Any]) -> PayloadChange:
    """The distance from ``a`` to ``b``, two arrays of one shape and dtype."""
    with np.errstate(invalid="ignore"):  # a signalling NaN is only a NaN here
        before, after = a.astype(np.float64), b.astype(np.float64)
    norm, moved = float(np.linalg.norm(before)), float(np.linalg.norm(after - before))
    return PayloadChange(
        name,
        dtype,
        a.shape,
        max_abs=float(np.abs(after - before).max()),
        max_ulp=int(np.abs(_rank(b) - _rank(a)).max()) if dtype == "float32" else None,
        relative_l2=moved / norm if norm else math.inf,
    )


def _rank(values: NDArray[Any]) -> NDArray[np.int64]:
    """The position of each float32 in their order, so that neighbours are 1 apart, across zero too."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _payloads(a: OnnxFile, b: OnnxFile) -> Iterator[PayloadChange]:
    others = weights(b.model)
    for label, tensor in weights(a.model).items():
        other = others.get(label)
        if other is None or (other.dims, other.data_type) != (tensor.dims, tensor.data_type):
            continue
        before, after = a.read(tensor), b.read(other)
        if before.tobytes() != after.tobytes():
            yield measure(label, dtype_name(tensor), before, after)


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


def change(what: What, where: str, before: str | None, after: str | None) -> Change:
    """Long texts are cut, the two of a pair to the part in which they first differ."""
    pairs = enumerate(zip(before or "", after or "", strict=False))
    skip = max(0, next((i for i, (x, y) in pairs if x != y), 0) - 20)

    def cut(text: str | None) -> str | None:
        if text is None or len(text) <= 100:
            return text
        return ("..." if skip else "") + text[skip : skip + 90] + ("..." if len(text) > skip + 90 else "")

    return Change(what, where, cut(before), cut(after))


def _first(items: Sequence[object], limit: int) -> list[str]:
    rest = [f"  ... and {len(items) - limit} more"] if len(items) > limit else []
    return [f"  {item}" for item in items[:limit]] + rest
