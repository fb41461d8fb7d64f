"""Where an import could end that cannot go through: the last values before what has no importer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from onnx import NodeProto

from reparam_kit.onnx.part import names_read

# What holds the weights that a net is trained for.
_LAYERS = {
    *("Conv", "ConvInteger", "ConvTranspose", "FusedConv", "QLinearConv"),
    *("FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "QGemm", "QLinearMatMul"),
    *("GRU", "LSTM", "RNN"),
}
_SHOWN = 3


class Ends(NamedTuple):
    """Names of values, and how many of the file's layers lie before them."""

    names: list[str]
    layers: int
    of: int

    def __str__(self) -> str:
        shown = self.names[:_SHOWN]
        more = f" and {len(self.names) - _SHOWN} more" if self.names[_SHOWN:] else ""
        options = " ".join(f"--outputs {name}" for name in shown)
        return (
            f"it can be imported up to {', '.join(map(repr, shown))}{more}, with {self.layers} of its {self.of} "
            f"convolutions and matrix products: {options}, or outputs={shown}{more}"
        )


def find_ends(nodes: Sequence[NodeProto], imported: Sequence[NodeProto], values: Collection[str]) -> Ends:
    """Return the fewest ``values``, the last ones, that all layers lie before which lie before any.

    Args:
        nodes: of the whole graph.
        imported: those that can be, each behind what it reads.
        values: what may be ended at.
    """
    before: dict[str, int] = {}  # a value -> a bit for each layer
    for i, node in enumerate(imported):
        bits = 1 << i if node.op_type in _LAYERS else 0
        for name in names_read(node):
            bits |= before.get(name, 0)
        before.update(dict.fromkeys(node.output, bits))
    names: list[str] = []
    covered = 0
    for name in (name for node in reversed(imported) for name in node.output if name in values):
        if before[name] & ~covered:
            names.insert(0, name)
            covered |= before[name]
    return Ends(names, covered.bit_count(), sum(node.op_type in _LAYERS for node in nodes))
