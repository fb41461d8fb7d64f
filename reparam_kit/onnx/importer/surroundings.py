"""The nodes around one that is being imported, where what it is depends on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from onnx import GraphProto, NodeProto, TensorProto

from reparam_kit.onnx.importer.values import Constant, Value

_FURTHEST = 4  # nodes from a product to its scale
_CLIPS = ("Clip", "Max", "Min")
_NARROW = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)


class Surroundings:
    """Which nodes of ``graph`` read and compute a value, and ``values`` as far as they are imported."""

    def __init__(self, graph: GraphProto, values: Mapping[str, Value]) -> None:
        self._values = values
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self._readers[name].append(node)

    def is_clipped(self, node: NodeProto) -> bool:
        """Return whether ``node`` quantises: bounds stand right before or behind it, or its integers have few bits."""
        readers, maker = self._readers.get(node.output[0], []), self._makers.get(node.input[0])
        return any(
            other.op_type in _CLIPS or any(a.name == "to" and a.i in _NARROW for a in other.attribute)
            for other in [*readers, *([maker] if maker is not None else [])]
        )

    def factor_behind(self, name: str) -> Constant | None:
        """Return the constant that ``name`` is multiplied by, itself or within a product, past casts."""
        for _ in range(_FURTHEST):
            readers = self._readers.get(name, [])
            if len(readers) != 1 or readers[0].op_type not in ("Cast", "Mul"):
                return None
            [node] = readers
            if node.op_type == "Mul":
                [other] = [factor for factor in node.input if factor != name] or [name]
                made = self._makers.get(other)
                factors = [other, *(made.input if made is not None and made.op_type == "Mul" else ())]
                known = [
                    value for factor in factors if isinstance(value := self._values.get(factor), Constant)
                ]
                if known:
                    return known[0]
            name = node.output[0]
        return None
