"""How long ONNX files take in onnxruntime."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from torch import Tensor

from reparam_kit.onnx.run import Session


def latency_ratio(a: str | Path, b: str | Path, inputs: Sequence[Tensor], runs: int = 50) -> float:
    """Return how long ``b`` takes for ``inputs``, in units of what ``a`` takes: the median of ``runs`` pairs.

    Both run on one thread, fully optimised, alternately, in reversed order each time, so that a machine which
    gets slower or faster meanwhile does so for both.

    Raises:
        InputError: onnxruntime cannot run a file, or not on these inputs.
    """
    first, second = (Session(Path(path), optimised=True, threads=1) for path in (a, b))
    for session in (first, second):
        session(inputs)
    ratios = []
    for turn in range(runs):
        seconds = {}
        for session in (first, second) if turn % 2 else (second, first):
            start = time.perf_counter()
            session(inputs)
            seconds[session] = time.perf_counter() - start
        ratios.append(seconds[second] / seconds[first])
    return median(ratios)
