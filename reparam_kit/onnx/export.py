"""From a torch model to an ONNX file, and to *the* ONNX file that is deployed already.

With an original to be like, what is written is that original with the model's weights: the model is exported afresh
with the settings that the original shows, the two graphs are matched, and the numbers of the fresh one go into the
original's bytes. Names, metadata and layout are then right by construction, and the match proves that the operators
are those of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from reparam_kit.algebra import Expanded
from reparam_kit.atomic import atomic_file
from reparam_kit.errors import InputError, VerificationError
from reparam_kit.files import read_file
from reparam_kit.inputs import Inputs, arguments
from reparam_kit.onnx.exporters import USUAL, VARIANTS, Exporter, export, exporter_of, simplified
from reparam_kit.onnx.importer.values import to_tensor
from reparam_kit.onnx.match import Match, match
from reparam_kit.onnx.noise import noise
from reparam_kit.onnx.provenance import Provenance, Source
from reparam_kit.onnx.run import Session
from reparam_kit.onnx.weights import OnnxFile, read_onnx
from reparam_kit.onnx.write_back import write_back
from reparam_kit.restoration import Restored
from reparam_kit.substitution import duplicate


@dataclass(frozen=True)
class Exported:
    """Which of torch's exporters wrote a file, and whether it then went through onnxsim.

    With ``like`` and without ``simplified``, the file is the original in everything but the numbers of its weights.
    """

    exporter: Exporter
    simplified: bool


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    like: str | Path | None = None,
    example_inputs: Inputs | None = None,
    simplify: bool = False,
) -> Exported:
    """Write ``model``, in eval mode whatever mode it is in, to the ONNX file ``path``.

    With ``like``, a file that torch exported from a model of the same architecture, ``path`` becomes that file with
    the weights of ``model``; nothing else in it changes. To prove that it may, the model is exported with the
    exporter, opset, sizes and free dimensions that ``like`` shows, and both graphs must match, operator by operator
    (see :func:`reparam_kit.onnx.match.match`).

    Without ``like``, the model is exported as ``torch.onnx.export`` does by default, with the sizes of
    ``example_inputs``.

    Args:
        model: any module that torch can export; it is not changed.
        path: the file to write. External data of ``like`` goes beside it, as :func:`reparam_kit.save` puts it.
        like: the original.
        example_inputs: what to trace the model on. With ``like`` they may be left out: noise in the shapes of its
            inputs is taken, where a free batch is 2 and any other free dimension a size at which the file runs.
        simplify: where the plain export does not match, try what onnxsim makes of it, by either exporter: against
            ``like``, which may have been simplified itself, then against what onnxsim makes of ``like``. Only in the
            last case is the file written not ``like`` but its simplified form. Without ``like``: simplify the file.

    Raises:
        InputError: the model is still expanded or cannot be exported; ``like`` cannot be read; neither ``like`` nor
            ``example_inputs`` is given; or a package that an exporter needs is not installed.
        VerificationError: the model's graph is not that of ``like``. No file is written.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> _ = export_onnx(net, "net.onnx", example_inputs=torch.randn(2, 3, 16, 16))
    >>> rk.verify(net, "net.onnx", torch.randn(2, 3, 16, 16)).ok
    True
    """
    if any(isinstance(part, Expanded | Restored) for part in model.modules()):
        raise InputError(
            "the model still has expanded layers or restored BatchNorms; fold it first, then export it"
        )
    model = duplicate(model).cpu().eval()
    inputs = None if example_inputs is None else [x.detach().cpu() for x in arguments(example_inputs)]
    if like is not None:
        return _export_like(model, Path(path), Path(like), inputs, simplify)
    if inputs is None:
        raise InputError("give like, an ONNX file of the same architecture, or example_inputs")
    fresh = export(model, inputs, USUAL["dynamo"])
    with atomic_file(path) as file:
        file.write((simplified(fresh) if simplify else fresh).model.SerializeToString())
    return Exported("dynamo", simplify)


def _export_like(
    model: nn.Module, path: Path, like: Path, inputs: Sequence[Tensor] | None, simplify: bool
) -> Exported:
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
