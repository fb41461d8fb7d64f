"""Whether an imported model computes what its file does, on given inputs, and if not, from which node on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn

from reparam_kit.errors import InputError, VerificationError, first_line
from reparam_kit.onnx import write_back
from reparam_kit.onnx.run import Session
from reparam_kit.substitution import duplicate

# Of the largest value. More where inputs that differ by rounding alone are further apart, as with integers.
_TOLERANCE, _TIMES_NOISE, _NUDGE = 1e-3, 20, 1e-6


def check_import(model: nn.Module, inputs: Tensor | Sequence[Tensor]) -> str | None:
    """Compare a model that came from ONNX, as it is now, with its file in onnxruntime: each image alone, and all.

    Args:
        model: what ``load`` gave for a ``.onnx`` file, trained or not, and not expanded. It is not changed.
        inputs: float images ``[N, ...]`` as the net takes them, or a tensor for each of its inputs; a few are enough.

    Returns:
        ``None``, or in one line why onnxruntime could not run the file, so that nothing was compared.

    Raises:
        InputError: ``model`` did not come from ONNX, is expanded, or does not run on ``inputs``.
        VerificationError: the two differ by more than rounding; the message names the first node at which they do.
    """
    if not isinstance(model, fx.GraphModule):
        raise InputError("the model was not loaded from an ONNX file, so there is none to compare it with")
    given = [x.detach().cpu() for x in ([inputs] if isinstance(inputs, Tensor) else inputs)]
    copied = duplicate(model).cpu().eval()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_back(copied, path)
        _Values(copied).outputs(given)  # raises where it does not take them
        try:
            session = Session(path, optimised=False)
            size = session.inputs[0].shape[0]
            alone = list(_rows(given, size if isinstance(size, int) else 1))
            expected = [list(session(rows).values()) for rows in alone]
        except InputError as error:
            return f"the import was not compared with its file: {error}".replace(f"{path}", "it")
        found = [_Values(copied).outputs(rows) for rows in alone]
        _compare(copied, path, alone, found, expected)
        if isinstance(size, int):
            parts = [list(zip(*found, strict=True)), _Values(copied).outputs(given)]
            if not all(_is_joined(list(of_each), whole) for of_each, whole in zip(*parts, strict=True)):
                raise VerificationError(
                    "the imported model gives an image another result among others than alone"
                )
        else:
            _compare(copied, path, [given], [_Values(copied).outputs(given)], [list(session(given).values())])
    return None


def _rows(inputs: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    for start in range(0, len(inputs[0]) - size + 1, size):
        yield [x[start : start + size] for x in inputs]


def _compare(
    model: fx.GraphModule, path: Path, runs: list[list[Tensor]], found: list[Any], expected: list[Any]
) -> None:
    for inputs, ours, theirs in zip(runs, found, expected, strict=True):
        nudged = [x * (1 + _NUDGE * torch.randn_like(x)) if x.is_floating_point() else x for x in inputs]
        noise = max(map(_distance, _Values(model).outputs(nudged), ours))
        tolerance = max(_TOLERANCE, _TIMES_NOISE * noise)
        furthest = max(map(_distance, ours, theirs))
        if not furthest <= tolerance:
            raise VerificationError(
                f"the imported model is off from its file by {furthest:.1g} of the largest value, first at "
                f"{_first_difference(model, path, inputs, tolerance)}; please report this file"
            )


def _first_difference(model: fx.GraphModule, path: Path, inputs: list[Tensor], tolerance: float) -> str:
    values = _Values(model)
    values.outputs(inputs)
    proto = onnx.load(path)
    known = {output.name for output in proto.graph.output}
    nodes = [(node, name) for node in proto.graph.node for name in node.output if name in values.named]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for _, name in nodes if name not in known)
    whole = path.with_name("whole.onnx")
    onnx.save(proto, whole)
    results = Session(whole, optimised=False)(inputs)
    for node, name in nodes:
        if not _distance(values.named[name], results[name]) <= tolerance:
            return f"node {node.name or name!r} ({node.op_type})"
    return "its outputs"


class _Values(fx.Interpreter):
    """Keeps the value of each node that stands for one of the file's, under its name there."""

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model)
        self.named: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if "value" in n.meta and isinstance(value, Tensor):
            self.named[n.meta["value"]] = value
        return value

    def outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the model returns, in the order of the graph."""
        try:
            with torch.no_grad():
                result = self.run(*inputs)
        except Exception as error:  # a node may raise anything on inputs that do not fit
            shapes = [list(x.shape) for x in inputs]
            raise InputError(
                f"the model does not run on inputs of shapes {shapes}: {first_line(error)}"
            ) from error
        return list(result) if isinstance(result, tuple) else [result]


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units of the largest value of ``b``; infinite where the shapes differ."""
    if a.numel() != b.numel():
        return float("inf")
    a, b = a.double().reshape(-1), b.double().reshape(-1)
    if not b.numel() or bool(((a == b) | (a.isnan() & b.isnan())).all()):
        return 0.0
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def _is_joined(parts: list[Tensor], whole: Tensor) -> bool:
    """Whether ``whole`` holds ``parts`` along some dimension, or is what each of them is."""
    shape = parts[0].shape
    if not shape:
        return _distance(torch.stack(parts), whole) <= _TOLERANCE or _distance(parts[0], whole) <= _TOLERANCE
    if shape == whole.shape:
        return all(_distance(part, whole) <= _TOLERANCE for part in parts)
    wholes = (torch.cat(parts, dim) for dim in range(len(shape)))
    return any(joined.shape == whole.shape and _distance(joined, whole) <= _TOLERANCE for joined in wholes)
