"""Running ONNX files with onnxruntime on the CPU: what they compute, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from reparam_kit.errors import InputError

Arrays = list[NDArray[Any]]

# What onnxruntime calls the element types that random inputs are made for.
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}

# Taken for a free dimension other than the batch, such as the height of a fully convolutional net's input.
_FREE_DIMENSION = 64


class Session:
    """One file in onnxruntime, with its graph optimisations all on or all off.

    Raises:
        InputError: onnxruntime cannot run the file.
    """

    def __init__(self, path: Path, *, optimised: bool, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        self.path = path
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise InputError(f"onnxruntime cannot load {path}: {error}") from error
        self.inputs = self._session.get_inputs()
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        """The outputs for ``inputs``, both in the order of the graph."""
        names = (entry.name for entry in self.inputs)
        try:
            results: Arrays = self._session.run(None, dict(zip(names, inputs, strict=True)))
        except Exception as error:  # as above
            shapes = [list(array.shape) for array in inputs]
            raise InputError(
                f"onnxruntime cannot run {self.path} on inputs of shape {shapes}: {error}"
            ) from error
        return results


def random_inputs(sessions: Sequence[Session], batch: int) -> Arrays:
    """Inputs that all ``sessions`` take: standard normal, bytes 0..255 where the input is uint8.

    A free first dimension becomes ``batch`` and any other free dimension 64, unless another session fixes it.

    Raises:
        InputError: an input of another type.
    """
    generator = np.random.default_rng(0)
    arrays: Arrays = []
    for entries in zip(*(session.inputs for session in sessions), strict=True):
        kind = _TYPES.get(entries[0].type)
        if kind is None:
            raise InputError(
                f"input {entries[0].name!r} is a {entries[0].type}; give example_inputs to run the model on"
            )
        shape = [
            next((size for size in sizes if isinstance(size, int)), _FREE_DIMENSION if axis else batch)
            for axis, sizes in enumerate(zip(*(entry.shape for entry in entries), strict=True))
        ]
        values = generator.integers(0, 256, shape) if kind is np.uint8 else generator.standard_normal(shape)
        arrays.append(values.astype(kind))
    return arrays


def has_free_batch(session: Session) -> bool:
    """Whether the first dimension of every input is free."""
    return all(entry.shape and not isinstance(entry.shape[0], int) for entry in session.inputs)


def latency_ratio(a: str | Path, b: str | Path, runs: int = 50) -> float:
    """How long ``b`` takes for one image, in units of what ``a`` takes: the median of ``runs`` pairs.

    Both run on one thread, fully optimised, turn about with the order reversed each time, so that a machine which
    gets slower or faster meanwhile does so for both.

    Raises:
        InputError: onnxruntime cannot run a file, or the two do not take the same inputs.
    """
    first, second = (Session(Path(path), optimised=True, threads=1) for path in (a, b))
    inputs = random_inputs([first, second], batch=1)
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
