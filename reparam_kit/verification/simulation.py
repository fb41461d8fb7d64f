"""Two models with their weights quantised, run: what eight bits do to the outputs, which is what a user sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from reparam_kit.onnx.run import Session
from reparam_kit.onnx.weights import OnnxFile
from reparam_kit.substitution import duplicate
from reparam_kit.verification.outputs import Outputs, errors_of, runner
from reparam_kit.verification.quantisation import OutputRisk, layers, quantise, stored_kernels


def quantised_module_outputs(a: nn.Module, b: nn.Module, inputs: Sequence[Tensor]) -> tuple[OutputRisk, ...]:
    """Run each module on ``inputs``, as it is and with the weights of its layers quantised."""
    runs = []
    for model in (a, b):
        quantised = duplicate(model)
        for _, layer in layers(quantised):
            layer.weight.data = quantise(layer.weight.data.double()).to(layer.weight)
        runs.append(([runner(model)(inputs)], [runner(quantised)(inputs)]))
    return risks(runs)


def quantised_file_outputs(
    a: str | Path, b: str | Path, files: tuple[OnnxFile, OnnxFile], inputs: Sequence[Tensor]
) -> tuple[OutputRisk, ...]:
    """Run as :func:`quantised_module_outputs` does, for the files at ``a`` and ``b``.

    Raises:
        InputError: a file cannot be run, or not on these inputs.
    """
    sessions = [Session(Path(path), optimised=True) for path in (a, b)]
    runs = []
    for session, file in zip(sessions, files, strict=True):
        with TemporaryDirectory() as folder:
            quantised = Session(_write_quantised(file, Path(folder)), optimised=True)
            runs.append(([session(inputs)], [quantised(inputs)]))
    return risks(runs)


def risks(models: Sequence[tuple[Sequence[Outputs], Sequence[Outputs]]]) -> tuple[OutputRisk, ...]:
    """Return the risks of the outputs of ``a`` and of ``b``, of each all runs as it is and quantised."""
    both = (errors_of(plain, quantised, {}) for plain, quantised in models)
    return tuple(
        OutputRisk(x.name, (x.relative, y.relative), (x.cosine, y.cosine))
        for x, y in zip(*both, strict=False)
    )


def _write_quantised(file: OnnxFile, folder: Path) -> Path:
    """Return the model with its kernels quantised, and its external data, in ``folder``."""
    model = ModelProto()
    model.CopyFrom(file.model)
    quantised = OnnxFile(model, {location: bytearray(data) for location, data in file.external.items()})
    for _, tensor in stored_kernels(quantised).values():
        weight = torch.from_numpy(quantised.read(tensor).astype(np.float64))
        quantised.write(tensor, quantise(weight).numpy())
    for location, data in quantised.external.items():
        (folder / location).parent.mkdir(parents=True, exist_ok=True)
        (folder / location).write_bytes(data)
    path = folder / "quantised.onnx"
    path.write_bytes(model.SerializeToString())
    return path
