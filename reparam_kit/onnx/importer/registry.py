"""Which function imports which operator, and since and until which version of its definition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.op import Op, find_schema
from reparam_kit.onnx.importer.values import Value

# Domains of operators that only one kind of processor has, by onnxruntime's own layout.
_PROCESSORS = ("com.microsoft.nchwc", "com.ms.internal.nhwc")

OLDEST_OPSET, NEWEST_OPSET = 7, 28

_Importer = TypeVar("_Importer", bound=Callable[[Op], Any])


class _Entry(NamedTuple):
    since: int
    until: int
    importer: Callable[[Op], Any]


_TABLE: dict[tuple[str, str], list[_Entry]] = defaultdict(list)


def operator(
    *op_types: str, since: int = 1, until: int = NEWEST_OPSET, domain: str = ""
) -> Callable[[_Importer], _Importer]:
    """Register the decorated function as the importer of ``op_types``.

    It is given an :class:`Op` and returns the node's output, or a tuple of them. ``since`` and ``until`` bound the
    version of the operator's *definition*: ``Conv`` of a file in opset 17 is defined by version 11. For an operator
    of another ``domain`` that ``onnx`` has no definition of, they bound the file's opset of that domain::

        @operator("Softsign")
        def softsign(op: Op) -> Value:
            return op.layer(nn.Softsign(), op[0])
    """

    def register(importer: _Importer) -> _Importer:
        for op_type in op_types:
            _TABLE[domain, op_type].append(_Entry(since, until, importer))
        return importer

    return register


def find_importer(op_type: str, domain: str, opset: int) -> Callable[[Op], Any]:
    """Find the function for an operator in a file of this ``opset``; :class:`UnsupportedError` where there is none."""
    schema = find_schema(op_type, domain, opset)
    version = schema.since_version if schema else opset
    for entry in reversed(_TABLE.get((domain, op_type), [])):  # the last registered comes first
        if entry.since <= version <= entry.until:
            importer: Callable[[Op], Any] = entry.importer
            return importer
    if domain in _PROCESSORS:
        raise UnsupportedError(
            f"the operator {op_type!r} of domain {domain!r} is one that onnxruntime makes for one kind of "
            "processor, with weights laid out for it; give the file from before, or save at ORT_ENABLE_EXTENDED at most"
        )
    raise UnsupportedError(
        f"there is no importer for the operator {op_type!r} of domain {domain or 'ai.onnx'!r}, "
        f"opset {opset}; export the model without it, or register a function for it with "
        "reparam_kit.onnx.importer.operator"
    )


def imported(op: Op) -> tuple[Value | None, ...]:
    """Return the outputs of a node, by the importer of its operator; ``None`` for one that it does not give.

    Raises :class:`UnsupportedError` as :func:`find_importer`, or where the node has an attribute or input that the
    importer does not handle.
    """
    result = find_importer(op.type, op.domain, op.opset)(op)
    op.check_all_read()
    return result if isinstance(result, tuple) else (result,)
