"""The programs that turn a torch model into an ONNX graph, made quiet and set as a given file shows.

Torch has two exporters. The older one traces with TorchScript, the newer one ("dynamo") with ``torch.export``; they
write different graphs for the same model, and so does onnxsim, which users run on either.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from onnx import ModelProto, ValueInfoProto, numpy_helper
from torch import Tensor, fx, nn

from reparam_kit.errors import InputError, first_line
from reparam_kit.extras import extra
from reparam_kit.onnx.external import is_external
from reparam_kit.onnx.match import graph_inputs
from reparam_kit.onnx.weights import OnnxFile, all_tensors, read_onnx

Exporter = Literal["torchscript", "dynamo"]
Settings = dict[str, Any]

# Keyword arguments of torch.onnx.export. The variants leave BatchNorms and constant expressions as they are.
USUAL: dict[Exporter, Settings] = {"torchscript": {"dynamo": False}, "dynamo": {"dynamo": True}}
VARIANTS: dict[Exporter, Settings] = {
    "torchscript": {"dynamo": False, "do_constant_folding": False},
    "dynamo": {"dynamo": True, "optimize": False},
}


def exporter_of(model: ModelProto) -> Exporter:
    """Return which exporter wrote ``model``, by how it names nodes: ``node_Conv_3``, not ``/stem/Conv``."""
    names = [node.name for node in model.graph.node if node.name]
    return "dynamo" if any(name.startswith("node_") for name in names) else "torchscript"


def export(
    model: nn.Module, inputs: Sequence[Tensor], settings: Settings, original: ModelProto | None = None
) -> OnnxFile:
    """Return what torch exports for ``model`` run on ``inputs``, with opset and free dimensions of ``original``.

    Raises:
        InputError: torch cannot export it, or lacks a package.
    """
    if settings["dynamo"]:
        require("onnxscript")
    elif isinstance(model, fx.GraphModule):
        model = _Opaque(model)
    if original is not None:
        free = [_free_axes(info) for info in graph_inputs(original)]
        if len(inputs) != len(free):
            raise InputError(
                f"the original takes {len(free)} inputs, and there are {len(inputs)} example_inputs"
            )
        settings = {**settings, **_as_in(original, free, settings["dynamo"])}
        inputs = [_no_ones(x, axes) for x, axes in zip(inputs, free, strict=True)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            with _quiet():
                torch.onnx.export(model, tuple(inputs), path, external_data=False, verbose=False, **settings)
        except Exception as error:  # whatever the model's own code, the tracer or the exporter raises
            shapes = [list(x.shape) for x in inputs]
            # The dynamo exporter explains itself at length; what happened is said by the error behind its own.
            cause = error.__cause__
            reason = first_line(cause if isinstance(cause, Exception) else error)
            raise InputError(
                f"torch.onnx.export with dynamo={settings['dynamo']} cannot export the model on inputs of shapes "
                f"{shapes}: {reason}; if the inputs are at fault, give others as example_inputs"
            ) from error
        return read_onnx(path)


def simplified(file: OnnxFile) -> OnnxFile:
    """Return what onnxsim makes of ``file``, except that equal weights stay apart, because training may part them.

    Raises:
        InputError: onnxsim is not installed or fails.
    """
    onnxsim = require("onnxsim")
    model = ModelProto()
    model.CopyFrom(file.model)
    for tensor in all_tensors(model):
        if is_external(tensor):
            tensor.CopyFrom(numpy_helper.from_array(file.read(tensor), tensor.name))
    try:
        with _quiet():
            simple, _ = onnxsim.simplify(model, skipped_optimizers=["eliminate_duplicate_initializer"])
    except Exception as error:  # onnxsim's errors have no base class of their own
        raise InputError(f"onnxsim cannot simplify the graph: {first_line(error)}") from error
    return OnnxFile(simple, {})


class _Opaque(nn.Module):
    """Hides the ``graph`` of an fx module, which the older exporter would take for one of TorchScript."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        return self.model(*inputs)


def _as_in(original: ModelProto, free: list[list[int]], dynamo: bool) -> Settings:
    """Opset and free dimensions. Names are not taken over: the exporters refuse some that they give themselves."""
    names = [f"input{number}" for number in range(len(free))]
    settings: Settings = {
        "opset_version": next(o.version for o in original.opset_import if o.domain in ("", "ai.onnx")),
        "input_names": names,
    }
    if dynamo:
        settings["dynamic_shapes"] = tuple(dict.fromkeys(axes, torch.export.Dim.AUTO) for axes in free)
    else:
        settings["dynamic_axes"] = dict(zip(names, free, strict=True))
    return settings


def _free_axes(info: ValueInfoProto) -> list[int]:
    dims = info.type.tensor_type.shape.dim
    return [axis for axis, dim in enumerate(dims) if not dim.HasField("dim_value")]


def _no_ones(x: Tensor, free: list[int]) -> Tensor:
    """Return ``x``, twice along each free dimension of size 1, which ``torch.export`` takes for a fixed one."""
    for axis in free:
        if axis < x.dim() and x.shape[axis] == 1:
            x = x.repeat_interleave(2, axis)
    return x


def require(package: str) -> Any:
    """Import what the extra ``export`` brings."""
    with extra("export", f"this needs {package}"):
        return import_module(package)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters quiet: they warn, log and print about themselves, also where all is well; their errors are
    raised.
    """
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
