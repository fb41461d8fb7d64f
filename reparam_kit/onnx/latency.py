"""How long ONNX files take in onnxruntime."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from torch import Tensor

from reparam_kit.onnx.run import Session


@dataclass(frozen=True)
class Spread:
    """The median of what was measured, and the ends of its middle half."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return that of two values or more."""
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)


@dataclass(frozen=True)
class Latency:
    """How long two files take on one thread, run in turn.

    Attributes:
        a, b: milliseconds of either.
        ratio: the time of ``b`` over that of ``a``, the median of all turns.
        interval: of that median, 95 %.
        runs: of each file.
    """

    a: Spread
    b: Spread
    ratio: float
    interval: tuple[float, float]
    runs: int

    @property
    def told(self) -> str:
        """What the runs show."""
        low, high = self.interval
        if low <= 1 <= high:
            return "no difference that these runs could show"
        return "slower by more than chance" if low > 1 else "faster by more than chance"

    def __str__(self) -> str:
        a, b = (f"{s.median:.3g} ms (middle half {s.low:.3g} to {s.high:.3g})" for s in (self.a, self.b))
        low, high = self.interval
        return (
            f"{a} of a, {b} of b, {self.runs} runs of each in turn on one thread; "
            f"ratio {self.ratio:.3f} (95 %: {low:.3f} to {high:.3f}): {self.told}"
        )


def measure_latency(a: str | Path, b: str | Path, inputs: Sequence[Tensor], runs: int = 50) -> Latency:
    """Measure how long ``a`` and ``b`` take for ``inputs``, ``runs`` times each, at least twice.

    Both run on one thread, fully optimised, alternately, in reversed order each time, so that a machine which
    gets slower or faster meanwhile does so for both.

    Raises:
        InputError: onnxruntime cannot run a file, or not on these inputs.
    """
    first, second = (Session(Path(path), optimised=True, threads=1) for path in (a, b))
    for session in (first, second):
        session(inputs)
    taken: dict[Session, list[float]] = {first: [], second: []}
    for turn in range(runs):
        for session in (first, second) if turn % 2 else (second, first):
            start = time.perf_counter()
            session(inputs)
            taken[session].append(1000 * (time.perf_counter() - start))
    ratios = [y / x for x, y in zip(taken[first], taken[second], strict=True)]
    return Latency(
        Spread.of(taken[first]), Spread.of(taken[second]), median(ratios), _of_median(ratios), runs
    )


def _of_median(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a median, by ranks: whatever is distributed how (Conover 1999, 3.2)."""
    ranked, count = sorted(values), len(values)
    first = max(0, math.floor((count - 1.96 * math.sqrt(count)) / 2) - 1)
    return ranked[first], ranked[count - 1 - first]
