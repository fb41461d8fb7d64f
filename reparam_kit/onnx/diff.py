"""What differs between two ONNX files: the graph, or only the numbers in its weights.

Weights are taken out of both (:meth:`OnnxFile.structure`); if what is left serialises to the same bytes, the graphs
are the same. Only otherwise are the two walked, field by field as the schema lists them, to say where they part, so
no field can be forgotten.
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
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from reparam_kit.errors import InputError
from reparam_kit.onnx.weights import OnnxFile, dtype_name, read_onnx, weights


@dataclass(frozen=True)
class Change:
    """One structural difference. ``where`` is a path such as ``graph.node[conv1].attribute[strides].ints``."""

    what: Literal["added", "removed", "changed", "reordered"]
    where: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.what == "added":
            return f"{self.where}: added {self.after}"
        if self.what == "removed":
            return f"{self.where}: removed {self.before}"
        return f"{self.where}: {self.what} from {self.before} to {self.after}"


@dataclass(frozen=True)
class PayloadChange:
    """How far the numbers of one weight moved.

    ``max_abs`` is the largest absolute difference, ``max_ulp`` the largest distance in representable numbers
    (float32 only), ``relative_l2`` is |b - a| / |a| in the 2-norm (infinite where a is all zero).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    max_abs: float
    max_ulp: int | None
    relative_l2: float

    def __str__(self) -> str:
        ulp = "" if self.max_ulp is None else f", {self.max_ulp} ulp"
        return (
            f"{self.name} {self.dtype}{list(self.shape)}: moved by at most {self.max_abs:.3g}{ulp}, "
            f"relative {self.relative_l2:.3g}"
        )


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
        payloads = [
            {key: None if isinstance(value, float) and not math.isfinite(value) else value}
            for change in self.payloads
            for key, value in asdict(change).items()
        ]
        return {"same_graph": self.same_graph, "changes": [asdict(c) for c in self.changes], "payloads": payloads}
