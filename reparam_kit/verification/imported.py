"""Whether an imported model computes what its file does, on given inputs, and if not, at which node.

Each node is held against the file's with the file's own values as its inputs. So rounding does not add up from node to
node, nor does a number that is rounded to another level of a quantised net hide a fault behind it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from reparam_kit.errors import InputError, VerificationError, first_line
from reparam_kit.inputs import Inputs, arguments
from reparam_kit.onnx.importer.fake import LEVELS
from reparam_kit.onnx.part import cut
from reparam_kit.onnx.provenance import Provenance
from reparam_kit.onnx.run import Session
from reparam_kit.onnx.write_back import as_written, write_back
from reparam_kit.substitution import duplicate

# Of a node's largest value, or so many epsilons of its type. More where inputs that differ by rounding alone (_NUDGE)
# give results that are further apart. Of integers, the share that may differ.
_TOLERANCE, _EPSILONS, _TIMES_NOISE, _NUDGE = 1e-5, 8, 8, 1e-6
_TIES = 1e-3
_APART = 1e-6  # what an image may change by when others come with it, in float64


def check_import(model: nn.Module, inputs: Inputs) -> str | None:
    """Compare a model that came from ONNX, as it is now, with its file in onnxruntime, node by node.

    Besides, whether an image gets the same result among others as alone.

    Args:
        model: what ``load`` gave for a ``.onnx`` file, trained or not, and not expanded. It is not changed.
        inputs: float images ``[N, ...]`` as the net takes them, or a tensor for each of its inputs; a few are enough.

    Returns:
        ``None``, or a line to tell: why onnxruntime could not run the file, so that nothing was compared, or that
        the file itself mixes the images of a batch that it leaves free.

    Raises:
        InputError: ``model`` did not come from ONNX, is expanded, or does not run on ``inputs``.
        VerificationError: the two differ by more than rounding; the message names the first node at which they do.

    >>> print(check_import(rk.load("deployed.onnx"), torch.randn(2, 3, 16, 16)))
    None
    """
    if not isinstance(model, fx.GraphModule):
        raise InputError("the model was not loaded from an ONNX file, so there is none to compare it with")
    given = [x.detach().cpu() for x in arguments(inputs)]
    copied = as_written(model).cpu().eval()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_back(copied, path)
        file = _File(path, copied.meta["onnx"])
        size = file.batch or 1
        given = [_filled(x, size) for x in given]
        alone = [[x[i : i + size] for x in given] for i in range(0, len(given[0]), size)]
        ours = _Values(copied)
        ours.outputs(given)  # raises where it does not take them
        try:
            file.open(ours.named)
            runs = [(rows, file.session(rows)) for rows in (alone if file.batch else [*alone, given])]
        except InputError as error:
            return f"the import was not compared with its file: {error}".replace(f"{file.path}", "it")
    for rows, theirs in runs:
        _compare(copied, file, rows, theirs)
    mixed = _first_mixed(copied, alone, given)
    if mixed is None:
        return None
    if file.batch:
        raise VerificationError("the imported model gives an image another result among others than alone")
    return (
        f"the file itself gives an image another result among others than alone, first at {file.place(mixed)}; "
        "fix its batch size to have each image treated alone"
    )


class _File:
    """What an ONNX file makes of inputs, value by value."""

    def __init__(self, path: Path, provenance: Provenance) -> None:
        self.path = path
        self._proto = onnx.load(path)
        if provenance.partial:
            cut(self._proto, provenance.outputs)
        graph = self._proto.graph
        stored = {tensor.name for tensor in graph.initializer}
        dims = [info.type.tensor_type.shape.dim for info in graph.input if info.name not in stored]
        self.batch = max(dims[0][0].dim_value, 0) if dims and dims[0] else 0
        self.outputs = [output.name for output in graph.output]
        self._nodes = {name: node for node in graph.node for name in node.output if name}

    def open(self, names: Collection[str]) -> None:
        """Start onnxruntime, to give the values of these names besides the outputs."""
        wanted = [name for name in self._nodes if name in names and name not in self.outputs]
        self._proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
        self.path = self.path.with_name("whole.onnx")
        onnx.save(self._proto, self.path)
        self.session = Session(self.path, optimised=False)

    def place(self, name: str) -> str:
        """Return the node that computes a value, in words."""
        node = self._nodes.get(name)
        return "its outputs" if node is None else f"node {node.name or name!r} ({node.op_type})"


def _filled(x: Tensor, size: int) -> Tensor:
    """Return ``x``, of which rows are repeated until their number is a multiple of ``size``."""
    return x[torch.arange(-(-len(x) // size) * size) % len(x)] if size > 1 else x


def _compare(model: fx.GraphModule, file: _File, inputs: list[Tensor], theirs: Mapping[str, Tensor]) -> None:
    ours = _values(model, file, inputs, theirs)
    distances = [(name, _distance(value, theirs[name])) for name, value in ours]
    if all(distance <= _tolerance(theirs[name]) for name, distance in distances):
        return
    nudged = {name: _nudged(value) for name, value in theirs.items()}
    near = _values(model, file, [_nudged(x) for x in inputs], nudged)
    for (name, distance), (_, value), (_, other) in zip(distances, ours, near, strict=True):
        if not _is_rounding(value, theirs[name], other):
            beyond = (_beyond_half(value, theirs[name], file.place(name)) for name, value in ours)
            raise VerificationError(
                next(filter(None, beyond), None)
                or f"the imported model is off from its file by {distance:.1g} of the largest value, first at "
                f"{file.place(name)}; please report this file"
            )


def _is_rounding(found: Tensor, expected: Tensor, nudged: Tensor) -> bool:
    """Return whether ``found`` is no further from ``expected`` than inputs off by rounding take it to be ``nudged``.

    Integers are held to that in how many differ, and in how far. onnxruntime leaves numbers between two nodes that it
    runs in float32 as they are, where the file rounds them to half, and those go to other integers.
    """
    held = [(found, expected, nudged)]
    if not expected.is_floating_point():
        held.append((found.double(), expected.double(), nudged.double()))
    return all(
        _distance(ours, theirs) <= max(_tolerance(theirs), _TIMES_NOISE * _distance(near, ours))
        for ours, theirs, near in held
    )


def _beyond_half(found: Tensor, expected: Tensor, place: str) -> str | None:
    """Return what to tell where the file has infinite numbers since float16 does not hold those that were ``found``.

    From there on the two differ: onnxruntime itself goes on with the finite numbers where it computes in float32.
    """
    if expected.dtype is not torch.float16 or found.numel() != expected.numel():
        return None
    lost = found.reshape(-1)[expected.reshape(-1).isinf()].double().abs()
    largest = torch.finfo(torch.float16).max
    if not lost.numel() or not largest < lost.max() < math.inf:
        return None
    return (
        f"{place} now gives numbers up to {lost.max():,.0f}, and the file holds them in float16, of which "
        f"{largest:,.0f} is the largest: in the file they are infinite. Train at a lower learning rate, or train a "
        "float32 file of this net, and convert it where its numbers stay below that"
    )


def _values(
    model: fx.GraphModule, file: _File, inputs: list[Tensor], theirs: Mapping[str, Tensor]
) -> list[tuple[str, Tensor]]:
    """Return each value that the file has too, made from ``theirs``, and then the outputs."""
    run = _Values(model, theirs)
    outputs = zip(file.outputs, run.outputs(inputs), strict=True)
    return [*((name, value) for name, value in run.named.items() if name in theirs), *outputs]


def _first_mixed(model: fx.GraphModule, alone: list[list[Tensor]], given: list[Tensor]) -> str | None:
    """Return the first value that is not put together of what it is for each image, where one of the outputs is not.

    In float64: there rounding does not take a number of a quantised net to another level.
    """
    exact = duplicate(model).double()
    whole, parts = _Exact(exact), [_Exact(exact) for _ in alone]
    together = whole.outputs(given)
    apart = [part.outputs(rows) for part, rows in zip(parts, alone, strict=True)]
    if all(_is_joined(*both) for both in zip(zip(*apart, strict=True), together, strict=True)):
        return None
    return next(
        (
            name
            for name, value in whole.named.items()
            if value.is_floating_point() and not _is_joined([part.named[name] for part in parts], value)
        ),
        "",
    )


class _Values(fx.Interpreter):
    """Keeps the value of each node that stands for one of the file's, under its name there.

    Those that use it go on with the value ``instead`` has, if it has one.
    """

    def __init__(self, model: fx.GraphModule, instead: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(model)
        self.named: dict[str, Tensor] = {}
        self._instead = instead or {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        name = n.meta.get("value")
        if not isinstance(name, str) or not isinstance(value, Tensor):
            return value
        if LEVELS in n.meta:
            of, scale, zero = n.meta[LEVELS]
            self.named[of] = (value / scale).round().to(torch.int64) + (0 if zero is None else zero)
        self.named[name] = value
        other = self._instead.get(name)
        if other is None or other.numel() != value.numel():
            return value
        return other.reshape(value.shape).to(value.dtype)

    def outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return what the model returns, in the order of the graph."""
        try:
            with torch.no_grad():
                result = self.run(*inputs)
        except Exception as error:  # a node may raise anything on inputs that do not fit
            shapes = [list(x.shape) for x in inputs]
            raise InputError(
                f"the model does not run on inputs of shapes {shapes}: {first_line(error)}"
            ) from error
        return list(result) if isinstance(result, tuple) else [result]


class _Exact(_Values):
    """In float64, whatever types the file has; the model has to be so."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return _wide(super().call_function(target, _wide(args), _wide(kwargs)))

    def outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return super().outputs(_wide(list(inputs)))


def _wide(values: Any) -> Any:
    """Return the floating-point tensors and types among ``values`` as float64."""

    def widened(leaf: Any) -> Any:
        if isinstance(leaf, torch.dtype):
            return torch.float64 if leaf.is_floating_point else leaf
        return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return map_aggregate(values, widened)


def _nudged(x: Tensor) -> Tensor:
    """Return ``x``, off by rounding."""
    if not x.is_floating_point():
        return x
    return x * (1 + max(_NUDGE, torch.finfo(x.dtype).eps) * torch.randn_like(x))


def _tolerance(expected: Tensor) -> float:
    if not expected.is_floating_point():
        return _TIES
    return max(_TOLERANCE, _EPSILONS * torch.finfo(expected.dtype).eps)


def _distance(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference in units of the largest value, or of integers the share of those that differ.

    Infinite where there are not as many, or where one is infinite or NaN and the other not.
    """
    if found.numel() != expected.numel():
        return math.inf
    if expected.is_floating_point():  # what is held in float32 may be beyond the largest of a half type
        found = found.to(expected.dtype)
    a, b = found.reshape(-1).double(), expected.reshape(-1).double()
    if not expected.is_floating_point():
        return float((a != b).double().mean()) if a.numel() else 0.0
    if not (a.isfinite() & b.isfinite()).all():
        same = (a == b) | (a.isnan() & b.isnan())
        if not (same | (a.isfinite() & b.isfinite())).all():
            return math.inf
        a, b = a[b.isfinite()], b[b.isfinite()]
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) if a.numel() else 0.0


def _is_joined(parts: Sequence[Tensor], whole: Tensor) -> bool:
    """Return whether ``whole`` holds ``parts`` along some dimension, or is what each of them is."""
    shape = parts[0].shape
    joined = [parts[0]] if all(_distance(part, parts[0]) <= _APART for part in parts) else []
    joined += [torch.cat(list(parts), dim) for dim in range(len(shape))] or [torch.stack(list(parts))]
    return any(wanted.shape == whole.shape and _distance(whole, wanted) <= _APART for wanted in joined)
