"""What a difference between two models is, and how it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reparam_kit.errors import printable

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
        near = self.max_ulp is not None and self.max_ulp < 1e6  # farther apart, the count tells nothing
        ulp = f" ({self.max_ulp} ulp)" if near else ""
        size = f"{self.dtype}{list(self.shape)}"
        return f"{self.name} {size}: max {self.max_abs:.3g}{ulp}, relative {self.relative_l2:.3g}"


@dataclass(frozen=True)
class StructuralDiff:
    """Where two models differ in structure (``changes``), and which weights of equal shape and dtype differ.

    ``renamed``: the changes are all in names, order, storage and metadata; operator by operator, two files compute the
    same expression of weights of the same shapes, as two exports of one net do. ``scales``: those of quantised weights
    that differ, where they may.
    """

    changes: tuple[Change, ...]
    payloads: tuple[PayloadChange, ...]
    renamed: bool = False
    scales: tuple[PayloadChange, ...] = ()

    @property
    def same_graph(self) -> bool:
        """Whether nothing but the numbers of weights differs, and scales that may."""
        return not self.changes

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them; a number that is not finite becomes None."""
        return {"same_graph": self.same_graph, **plain(asdict(self))}

    def __str__(self) -> str:
        head = "same graph" if self.same_graph else f"different graphs, changes: {len(self.changes)}"
        if self.renamed:
            head += "; operator by operator, both compute their outputs alike"
        farthest = sorted(self.payloads, key=lambda payload: payload.relative_l2, reverse=True)
        lines = [
            head,
            *_first(self.changes, 3 if self.renamed else 20),
            f"weights that differ: {len(farthest)}",
            *_first(farthest, 5),
            *([f"scales of weights that differ: {len(self.scales)}"] if self.scales else []),
            *_first(self.scales, 5),
        ]
        return "\n".join(map(printable, lines))


def change(what: What, where: str, before: str | None, after: str | None) -> Change:
    """Long texts are cut, the two of a pair to the part in which they first differ."""
    pairs = enumerate(zip(before or "", after or "", strict=False))
    skip = max(0, next((i for i, (x, y) in pairs if x != y), 0) - 20)

    def cut(text: str | None) -> str | None:
        if text is None or len(text) <= 100:
            return text
        return ("..." if skip else "") + text[skip : skip + 90] + ("..." if len(text) > skip + 90 else "")

    return Change(what, where, cut(before), cut(after))


def measure(name: str, dtype: str, a: NDArray[Any], b: NDArray[Any]) -> PayloadChange:
    """Return the distance from ``a`` to ``b``, two arrays of one shape and dtype."""
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
    """Return the position of each float32 in their order, so that neighbours are 1 apart, across zero too."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def plain(value: Any) -> Any:
    """Return ``value`` in JSON's types: tuples as lists, numbers that are not finite as None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first(items: Sequence[object], limit: int) -> list[str]:
    rest = [f"  ... and {len(items) - limit} more"] if len(items) > limit else []
    return [f"  {item}" for item in items[:limit]] + rest
