"""Which function imports which operator, and since and until which version of its definition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from onnx import NodeProto

from reparam_kit.onnx.importer.op import Op, find_schema

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


def find_importer(node: NodeProto, domain: str, opset: int) -> Callable[[Op], Any] | None:
    """Find the function for ``node`` in a file of this ``opset``, or ``None``."""
    schema = find_schema(node.op_type, domain, opset)
    version = schema.since_version if schema else opset
    for entry in reversed(_TABLE.get((domain, node.op_type), [])):  # the last registered comes first
        if entry.since <= version <= entry.until:
            importer: Callable[[Op], Any] = entry.importer
            return importer
    return None
