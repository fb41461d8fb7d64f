"""Models of which at least one is an ONNX file: run on inputs that both take, and two files judged by graph and
weights, which is done whether they run or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from onnx import TensorProto
from torch import Tensor, nn

from reparam_kit.errors import InputError
from reparam_kit.onnx.diff import compare
from reparam_kit.onnx.latency import measure_latency
from reparam_kit.onnx.noise import Shapes, noise
from reparam_kit.onnx.run import Session
from reparam_kit.onnx.scales import Scales, places_of, require_scales
from reparam_kit.onnx.weights import OnnxFile, all_tensors, read_onnx
from reparam_kit.verification.outputs import Model, Runner, errors_of, runner
from reparam_kit.verification.quantisation import Quantisation, compare_file_kernels
from reparam_kit.verification.report import OutputError, Report
from reparam_kit.verification.simulation import quantised_file_outputs

Pair = tuple[Runner, Runner]
T = TypeVar("T")
_HALF = {TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16}


class Ran(NamedTuple):
    """What came of a run: how far apart the outputs were, on which inputs, and what is to be said of it."""

    outputs: tuple[OutputError, ...]
    inputs: list[list[Tensor]]
    note: str


def opened(a: Model, b: Model) -> list[Pair]:
    """Return what runs ``a`` and ``b``: files without graph optimisations and then with them.

    Raises:
        InputError: onnxruntime cannot load a file.
    """
    return list(zip(_twice(a), _twice(b), strict=True))


def run_files(pairs: Sequence[Pair], inputs: Sequence[Tensor] | None, shapes: Shapes | None) -> Ran:
    """Compare the outputs, as :func:`~.outputs.compare_module_outputs` does, where at least one is a file.

    Without ``inputs`` they get noise, at batch 1 and, where the batch is free, 3; with them, also their first sample
    alone.

    Raises:
        InputError: they do not run on the inputs, or on no noise that was tried.
    """
    sessions = [side for pair in pairs for side in pair if isinstance(side, Session)]
    runs = noise(sessions, (1, 3), shapes) if inputs is None else _given(sessions, list(inputs))
    of_a, of_b = ([pair[side](run) for pair in pairs for run in runs] for side in (0, 1))
    ran = ", ".join(str([list(x.shape) for x in run]) for run in runs)
    kind = "random" if inputs is None else "the given"
    note = f"run in onnxruntime, graph optimisations off and on, on {kind} inputs of shapes {ran}"
    if left_out := sorted({name for session in sessions for name in session.left_out}):
        note += f"; not compared, since no tensors of numbers: {', '.join(map(repr, left_out))}"
    return Ran(errors_of(of_a, of_b, {}, _half_types(pairs[0])), runs, note)


def _half_types(sides: Pair) -> set[torch.dtype]:
    """Return those that a file computes in where a module does in float32."""
    files = [side for side in sides if isinstance(side, Session)]
    if len(files) == len(sides):
        return set()
    types = {tensor.data_type for file in files for tensor in all_tensors(file.graph)}
    return {dtype for number, dtype in _HALF.items() if number in types}


def _twice(model: Model) -> Pair:
    """Return a file without and with graph optimisations; a module, which knows of none, two times."""
    if isinstance(model, nn.Module):
        return (runner(model),) * 2
    return Session(Path(model), optimised=False), Session(Path(model), optimised=True)


def _given(sessions: Sequence[Session], inputs: list[Tensor]) -> list[list[Tensor]]:
    """Return the runs that a user's inputs are: also of the first alone where the batch is free, and so many at once
    as a file fixes.
    """
    firsts = {entry.shape[0] if entry.shape else 1 for session in sessions for entry in session.inputs}
    rows = {len(x) if x.dim() else 0 for x in inputs}
    count = min(rows, default=0)
    if not any(isinstance(size, int) for size in firsts):
        alone = [x[:1] for x in inputs if x.dim()]
        return [inputs, alone] if count > 1 and _runs(sessions[0], alone) else [inputs]
    size = firsts.pop()
    if firsts or len(rows) > 1 or count in (0, size):
        return [inputs]
    filled = [x[torch.arange(-(-count // size) * size) % count] for x in inputs]
    return [[x[i : i + size] for x in filled] for i in range(0, len(filled[0]), size)]


def _runs(session: Session, inputs: Sequence[Tensor]) -> bool:
    try:
        session(inputs)
    except InputError:
        return False
    return True


def compare_files(
    a: str | Path,
    b: str | Path,
    inputs: Sequence[Tensor] | None,
    shapes: Shapes | None,
    *,
    same_function: bool,
    latency: bool,
    calibration: Sequence[Tensor] | None,
    scales: Scales,
) -> Report:
    """Compare two files in structure and weights, and in outputs as far as onnxruntime runs them.

    What it does not run is a note.

    Raises:
        InputError: a file cannot be read, or does not take what the caller gives to run it on.
    """
    free = require_scales(scales)
    files = read_onnx(a), read_onnx(b)
    structure = compare(*files, places_of(files[0]) if free else ())
    strict = structure.same_graph and (inputs is not None or bool(shapes))
    notes: list[str] = []
    ran, moved, taken = None, None, None
    pairs = _tried("outputs not compared", lambda: opened(a, b), notes)
    if pairs is not None and strict:
        ran = run_files(pairs, inputs, shapes)
    elif pairs is not None:
        ran = _tried("outputs not compared", lambda: run_files(pairs, inputs, shapes), notes)
    if ran is not None:
        notes.append(ran.note)
        few, *_, many = sorted([*ran.inputs, *ran.inputs], key=lambda run: sum(x.numel() for x in run))
        moved = _tried("INT8 not simulated", lambda: quantised_file_outputs(a, b, files, many), notes)
        if latency:
            taken = _tried("latency not measured", lambda: measure_latency(a, b, few), notes)
    quantised = None
    if calibration is not None:
        from reparam_kit.verification.int8 import quantised_runs  # for its quantiser is slow to import

        quantised = _tried("INT8 not tried", lambda: quantised_runs(a, b, calibration), notes)
    return Report(
        structure,
        ran.outputs if ran is not None else (),
        tuple(notes),
        same_function,
        (_size(a, files[0]), _size(b, files[1])),
        taken,
        Quantisation(compare_file_kernels(*files), moved or (), quantised or ()),
    )


def _tried(what: str, run: Callable[[], T], notes: list[str]) -> T | None:
    """Return what ``run`` gives, or None where onnxruntime cannot, and note so."""
    try:
        return run()
    except InputError as error:
        notes.append(f"{what}: {error}")
        return None


def _size(path: str | Path, file: OnnxFile) -> int:
    return Path(path).stat().st_size + sum(map(len, file.external.values()))
