"""What has to hold of an ONNX file, whoever wrote it; for commands that try many."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import reparam_kit as rk


class Failed(Exception):
    """Something that has to hold does not; the message says what, and how."""


def round_trip(
    imported: nn.Module, path: Path, inputs: Sequence[Tensor], block: str = "dbb"
) -> tuple[float, float]:
    """The errors of import and retrained, for ``imported`` from ``path``, where three things hold.

    Import: it computes what onnxruntime makes of the file. Identity: written back, it gives the same bytes. Retrained:
    expanded, moved, folded and written back, it gives a file with other payloads alone, of which onnxruntime makes
    what the expanded net computes. A net without convolutions has its linear layers expanded.
    """
    first = error("import", imported, path, inputs)
    linear = all(site.kind == "Linear" for site in rk.inspect(imported))
    student = disturb(rk.expand(imported, block, include=["*"] if linear else None))
    with TemporaryDirectory() as folder:
        new = Path(folder) / "new.onnx"
        rk.save(imported, new)
        if new.read_bytes() != path.read_bytes():
            raise Failed(f"identity: {rk.diff(path, new)}")
        rk.save(rk.fold(student), new)
        second = error("retrained", student, new, inputs)
        same_graph("retrained", path, new)
    return first, second


def disturb(net: nn.Module) -> nn.Module:
    """Move every parameter by about 2 % of its spread, as training does."""
    with torch.no_grad():
        for parameter in net.parameters():
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().mean()
            parameter.add_(0.02 * (spread + 1e-3) * torch.randn_like(parameter))
    return net


def rounding(net: nn.Module, inputs: Sequence[Tensor]) -> float:
    """How far the net in float32 is from itself in float64, relative to the scale of the output."""
    net = deepcopy(net).eval()
    with torch.no_grad():
        found = net(*inputs)
        truth = net.double()(*(x.double() if x.is_floating_point() else x for x in inputs))
        return float((found - truth).abs().max() / truth.abs().max())


def error(what: str, model: nn.Module, path: Path, inputs: Sequence[Tensor]) -> float:
    """The largest over all outputs, optimisations off and on, and batches of two and, where it is free, one.

    It may be 1e-5 of the output's scale, or, where a random net magnifies rounding, four times the error that the
    model itself has in float32 on these inputs: onnxruntime has one of that size too, and the largest of few is chance.
    """
    largest = max(output.relative for output in rk.verify(model, path, inputs).outputs)
    if not largest <= 1e-5 and not largest <= (own := 4 * rounding(model, inputs)):
        raise Failed(f"{what}: error {largest:.1e}, beyond {max(1e-5, own):.1e}")
    return largest


def same_graph(what: str, original: Path, new: Path) -> None:
    """Hold that payloads differ, and nothing else."""
    found = rk.diff(original, new)
    if not found.same_graph or not found.payloads:
        raise Failed(f"{what}: {found}")
