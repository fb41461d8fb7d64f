"""From a torch model to *the* ONNX file that is deployed already.

What is written is that original with the model's weights: the model is exported afresh with the settings that the
original shows, the two graphs are matched, and the numbers of the fresh one go into the original's bytes. Names,
metadata and layout are then right by construction, and the match proves that the operators are those of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from reparam_kit.errors import InputError, VerificationError
from reparam_kit.files import read_file
from reparam_kit.onnx.exporters import USUAL, VARIANTS, Exporter, export, exporter_of, simplified
from reparam_kit.onnx.importer.values import to_tensor
from reparam_kit.onnx.match import Match, match
from reparam_kit.onnx.noise import noise
from reparam_kit.onnx.provenance import Provenance, Source
from reparam_kit.onnx.run import Session
from reparam_kit.onnx.weights import OnnxFile, read_onnx
from reparam_kit.onnx.write_back import write_back


@dataclass(frozen=True)
class Exported:
    """Which of torch's exporters wrote a file, and whether it then went through onnxsim.

    With ``like`` and without ``simplified``, the file is the original in everything but the numbers of its weights.
    Of a new file, ``opset`` and the dimensions of ``inputs`` and ``outputs`` by name (free ones are names) are what it
    has, and ``error`` is how far it was from the model in onnxruntime, in units of an output's largest value.
    ``folded`` counts the expanded layers and restored BatchNorms that were folded before.
    """

    exporter: Exporter
    simplified: bool
    folded: int = field(default=0, compare=False)
    opset: int | None = field(default=None, compare=False)
    inputs: Mapping[str, Sequence[int | str]] = field(default_factory=dict, compare=False)
    outputs: Mapping[str, Sequence[int | str]] = field(default_factory=dict, compare=False)
    error: float | None = field(default=None, compare=False)

    def __str__(self) -> str:
        taken, given = (
            ", ".join(f"{name} [{', '.join(map(str, dimensions))}]" for name, dimensions in ends.items())
            for ends in (self.inputs, self.outputs)
        )
        far = "" if self.error is None else f", within {self.error:.0e} of the model in onnxruntime"
        return f"{taken} -> {given}, opset {self.opset}, by torch's {self.exporter} exporter{far}"


def export_like(
    model: nn.Module, path: Path, like: Path, inputs: Sequence[Tensor] | None, simplify: bool
) -> Exported:
    """Write ``like`` with the weights of ``model``, in eval mode and folded, to ``path``: see ``export_onnx``."""
    payload = read_file(like, "an .onnx file")
    original = read_onnx(like, payload)
    if inputs is None:
        inputs = noise([Session(like, optimised=False)], [2, 1])[0]
    matches: list[Match] = []
    for result, target, fresh in _candidates(model, inputs, original, simplify):
        found = match(target, fresh)
        if not found.differences:
            if result.simplified:
                provenance = Provenance(None, target.model.SerializeToString(), {})
            else:
                external = {location: bytes(data) for location, data in original.external.items()}
                provenance = Provenance(like, payload, {}, external)
            write_back(_Weights(found, fresh, provenance), path)
            return result
        matches.append(found)
    nearest = max(matches, key=lambda found: len(found.weights))
    hint = (
        "" if simplify else "; if another exporter or onnxsim wrote it, simplify=True (--simplify) may help"
    )
    raise VerificationError(
        f"the model's graph is not that of {like}, so nothing was written: "
        f"{'; '.join(map(str, nearest.differences[:3]))} (the original -> the model){hint}; if it comes from another "
        "framework, train what reparam_kit.load makes of it, which reparam_kit.save writes back",
        nearest,
    )


def _candidates(
    model: nn.Module, inputs: Sequence[Tensor], original: OnnxFile, simplify: bool
) -> Iterator[tuple[Exported, OnnxFile, OnnxFile]]:
    """Return what may match: a file that could be written and an export of the model, each as it is or simplified."""
    likely = exporter_of(original.model)
    exports = [(likely, settings) for settings in (USUAL[likely], VARIANTS[likely])]
    if simplify:
        exports += [(exporter, settings) for exporter, settings in USUAL.items() if exporter != likely]
    for number, (exporter, settings) in enumerate(exports):
        try:
            fresh = export(model, inputs, settings, original.model)
        except InputError:
            if number == 0:
                raise
            continue  # the likely one has worked, and how it differs is what to report
        yield Exported(exporter, simplified=False), original, fresh
        if simplify:
            slim = simplified(fresh)
            yield Exported(exporter, simplified=False), original, slim
            yield Exported(exporter, simplified=True), simplified(original), slim


class _Weights(nn.Module):
    """Nothing but the weights of an ONNX file, in the form that is written back into it."""

    def __init__(self, found: Match, fresh: OnnxFile, provenance: Provenance) -> None:
        super().__init__()
        sources = {}
        for number, (key, tensor) in enumerate(found.weights.items()):
            self.register_buffer(f"weight{number}", to_tensor(fresh.read(tensor), tensor.data_type))
            sources[f"weight{number}"] = Source(key, tuple(tensor.dims))
        self.meta = {"onnx": replace(provenance, tensors=sources)}
