"""What INT8 costs a file, found by doing it: onnxruntime's own quantiser, given images, and the copies that it writes
run on others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from onnx import ModelProto, numpy_helper
from onnx.version_converter import convert_version
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from reparam_kit.errors import InputError, first_line
from reparam_kit.onnx.external import is_external
from reparam_kit.onnx.run import Session
from reparam_kit.onnx.weights import OnnxFile, all_tensors, read_onnx
from reparam_kit.verification.outputs import Outputs
from reparam_kit.verification.quantisation import QuantisedRun
from reparam_kit.verification.simulation import risks

_BY_CHANNEL = 13  # the first opset whose integers can have a scale for each channel
_AT_ONCE = 16
_QUANTISED = {"DequantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}


def quantised_runs(a: str | Path, b: str | Path, images: Sequence[Tensor]) -> tuple[QuantisedRun, ...]:
    """Quantise the files at ``a`` and ``b``, with one scale for each kernel and with one for each of its channels.

    Every other of ``images``, a tensor ``[N, ...]`` for each input, calibrates the ranges of the activations, and the
    rest are what the copies and the files are run on; a single one is used for both.

    Raises:
        InputError: a file is quantised already, or cannot be, or is not run by onnxruntime on the images.
    """
    seen, judged = [x[::2] for x in images], [x[1::2] if len(x) > 1 else x for x in images]
    runs = []
    for by_channel in (False, True):
        pairs = [_run_both(Path(path), seen, judged, by_channel) for path in (a, b)]
        runs.append(QuantisedRun(by_channel, len(seen[0]), len(judged[0]), risks(pairs)))
    return tuple(runs)


def _run_both(
    path: Path, seen: Sequence[Tensor], judged: Sequence[Tensor], by_channel: bool
) -> tuple[list[Outputs], list[Outputs]]:
    """Return what the file makes of ``judged``, and what its copy in INT8 does."""
    with TemporaryDirectory() as folder:
        file, copy = Session(path, optimised=True), Path(folder) / "int8.onnx"
        batches = _batches(file, judged, _AT_ONCE)
        plain = [file(batch) for batch in batches]
        _quantise(path, copy, _Feeds(file, seen), by_channel)
        quantised = Session(copy, optimised=True)
        return plain, [quantised(batch) for batch in batches]


def _quantise(path: Path, copy: Path, feeds: _Feeds, by_channel: bool) -> None:
    """Write the file at ``path`` in INT8, as onnxruntime's documentation has it done: prepared, then quantised."""
    model = _current(read_onnx(path), path)
    prepared = copy.with_name("prepared.onnx")
    try:
        with _quiet():
            quant_pre_process(model, prepared)
            quantize_static(
                prepared,
                copy,
                feeds,
                per_channel=by_channel,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    except Exception as error:  # what it does not know it meets with errors of any kind
        raise InputError(f"onnxruntime's quantiser cannot quantise {path}: {first_line(error)}") from error
    if not _QUANTISED & {node.op_type for node in onnx.load(copy).graph.node}:
        raise InputError(
            f"onnxruntime's quantiser finds nothing to quantise in {path}, which is not in float32"
        )


def _current(file: OnnxFile, path: Path) -> ModelProto:
    """Return the model with all its tensors, in an opset that can say what a quantiser writes."""
    model = file.model
    if _QUANTISED & {node.op_type for node in model.graph.node}:
        raise InputError(f"{path} is quantised already, so there is no INT8 to be tried")
    for tensor in all_tensors(model):
        if is_external(tensor):
            tensor.CopyFrom(numpy_helper.from_array(file.read(tensor), tensor.name))
    if any(entry.domain in ("", "ai.onnx") and entry.version < _BY_CHANNEL for entry in model.opset_import):
        try:
            return convert_version(model, _BY_CHANNEL)
        except Exception as error:  # its errors have no base class of their own
            raise InputError(
                f"onnx cannot bring {path} to opset {_BY_CHANNEL}: {first_line(error)}"
            ) from error
    return model


class _Feeds(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives the quantiser images one by one, or as many at once as the file fixes."""

    def __init__(self, session: Session, images: Sequence[Tensor]) -> None:
        names = [entry.name for entry in session.inputs]
        self._feeds = (
            {name: x.numpy() for name, x in zip(names, batch, strict=True)}
            for batch in _batches(session, images, 1)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def _batches(session: Session, images: Sequence[Tensor], most: int) -> list[list[Tensor]]:
    """Return the images in batches: of the size that the file fixes, the last filled up, or of at most ``most``."""
    fixed = next((entry.shape[0] for entry in session.inputs if entry.shape), most)
    size = fixed if isinstance(fixed, int) else most
    count = len(images[0])
    if isinstance(fixed, int):
        images = [x[torch.arange(-(-count // size) * size) % count] for x in images]
    return [[x[first : first + size] for x in images] for first in range(0, len(images[0]), size)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the terminal what the quantiser advises by the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
