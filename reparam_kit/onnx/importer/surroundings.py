"""The nodes around one that is being imported, where what it is depends on them."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import GraphProto, NodeProto, TensorProto

from reparam_kit.onnx.importer.values import Constant, Value
from reparam_kit.onnx.scales import Wiring

_CLIPS = ("Clip", "Max", "Min")
_NARROW = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)


class Surroundings:
    """Which nodes of ``graph`` read and compute a value, and ``values`` as far as they are imported."""

    def __init__(self, graph: GraphProto, values: Mapping[str, Value]) -> None:
        self._values = values
        self._wiring = Wiring(graph.node)

    def is_clipped(self, node: NodeProto) -> bool:
        """Return whether ``node`` quantises: bounds stand right before or behind it, or its integers have few bits."""
        readers, maker = self._wiring.readers.get(node.output[0], []), self._wiring.makers.get(node.input[0])
        return any(
            other.op_type in _CLIPS or any(a.name == "to" and a.i in _NARROW for a in other.attribute)
            for other in [*readers, *([maker] if maker is not None else [])]
        )

    def factor_behind(self, name: str) -> Constant | None:
        """Return the constant that ``name`` is multiplied by, itself or within a product, past casts."""
        found = (self._values.get(factor) for factor in self._wiring.factors_behind(name))
        return next((value for value in found if isinstance(value, Constant)), None)
