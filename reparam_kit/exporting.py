"""From a torch model to an ONNX file: a new one, or *the* one that is deployed already.

A new file is held against the model before it takes its name: opset, names and free dimensions are those that were
asked for, and onnxruntime computes with it what the model computes, also at other sizes of what is free.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from onnx import ValueInfoProto
from torch import Tensor, nn

from reparam_kit.algebra import Foldable
from reparam_kit.atomic import atomic_path
from reparam_kit.errors import InputError, ReparamError, VerificationError
from reparam_kit.inputs import Inputs, arguments
from reparam_kit.onnx.export import Exported, export_like
from reparam_kit.onnx.exporters import USUAL, Exporter, export, require, simplified
from reparam_kit.onnx.interface import Free, Interface, interface, rename
from reparam_kit.onnx.match import graph_inputs
from reparam_kit.onnx.noise import Shapes
from reparam_kit.onnx.weights import OnnxFile
from reparam_kit.substitution import duplicate
from reparam_kit.surgery import fold
from reparam_kit.verification.files import opened
from reparam_kit.verification.outputs import Outputs, errors_of, runner
from reparam_kit.verification.report import OutputError

_OLDEST_OF_DYNAMO = 18  # the opset in which that exporter writes: what is to be older it converts, or leaves
_TIMES_OWN = 4  # times the model's own rounding error that a file may be from it, where that is larger


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    like: str | Path | None = None,
    example_inputs: Inputs | Mapping[str, Tensor] | None = None,
    simplify: bool = False,
    shapes: Shapes | None = None,
    dynamic: str | Free | None = None,
    opset: int | None = None,
    output_names: Sequence[str] | None = None,
) -> Exported:
    """Write ``model``, in eval mode whatever mode it is in, to the ONNX file ``path``. One that is expanded is folded
    first.

    With ``like``, a file that torch exported from a model of the same architecture, ``path`` becomes that file with
    the weights of ``model``; nothing else in it changes. To prove that it may, the model is exported with the
    exporter, opset, sizes and free dimensions that ``like`` shows, and both graphs must match, operator by operator
    (see :func:`reparam_kit.onnx.match.match`).

    Without ``like`` a new file is written, by torch's newer exporter where onnxscript is installed and it can, else by
    the older one. Before it takes its name it is run in onnxruntime beside the model, on random inputs, also with
    other sizes of its free dimensions.

    Args:
        model: any module that torch can export; it is not changed.
        path: the file to write. External data of ``like`` goes beside it, as :func:`reparam_kit.save` puts it.
        like: the original.
        example_inputs: what to trace the model on: a tensor, several in a sequence, or by the names that the inputs are
            to have in the file. They may be left out with ``like``, with ``shapes``, and of a model that came from an
            ONNX file or says what it takes (``example_input_array``, or timm's ``pretrained_cfg``); noise in these
            shapes is then taken.
        simplify: where the plain export does not match, try what onnxsim makes of it, by either exporter: against
            ``like``, which may have been simplified itself, then against what onnxsim makes of ``like``. Only in the
            last case is the file written not ``like`` but its simplified form. Without ``like``: simplify the file.
        shapes: in place of ``example_inputs``, the shape of each input by the name that it is to have, in the order of
            the model's ``forward``, or in any where they are the names that these have there.
        dynamic: the free dimensions: a name for the first dimension of every input, such as ``"batch"``, or, by the
            names of inputs, what each free dimension is called: ``{"x": {0: "batch", 2: "height"}}``. None: those of
            the file that the model came from where also the inputs are, else none.
        opset: of the file. None: the exporter's own choice.
        output_names: in the file. None: those of the file that the model came from, the keys of a dictionary, or
            ``output``, numbered where there are several.

    Raises:
        InputError: the model cannot be folded or exported; ``like`` cannot be read; nothing says what the model takes;
            names, dimensions or the opset that are asked for cannot be had; or a package that an exporter needs is not
            installed.
        VerificationError: the model's graph is not that of ``like``, or the new file computes something else than
            the model. No file is written.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> done = export_onnx(net, "net.onnx", shapes={"x": (1, 3, 16, 16)}, dynamic="batch", output_names=["y"])
    >>> done.inputs, done.outputs
    ({'x': ['batch', 3, 16, 16]}, {'y': ['batch', 8, 14, 14]})
    """
    folded = sum(isinstance(part, Foldable) for part in model.modules())
    model = (fold(model) if folded else duplicate(model)).cpu().eval()
    if like is not None:
        if not (shapes is None and dynamic is None and opset is None and output_names is None):
            raise InputError(
                "sizes, names, dynamic and opset are those that like (--like) has; give them or like, not both"
            )
        given = example_inputs.values() if isinstance(example_inputs, Mapping) else example_inputs
        inputs = None if given is None else [x.detach().cpu() for x in arguments(_sequence(given))]
        done = export_like(model, Path(path), Path(like), inputs, simplify)
    else:
        if shapes is not None and example_inputs is not None:
            raise InputError("shapes are of noise, and example_inputs are given: give one of them")
        wanted = interface(model, example_inputs, shapes, dynamic, output_names)
        done = _export_new(model, Path(path), wanted, opset, simplify)
    return replace(done, folded=folded)


def _sequence(given: Any) -> Inputs:
    return given if isinstance(given, Tensor) else list(given)


def _export_new(
    model: nn.Module, path: Path, wanted: Interface, opset: int | None, simplify: bool
) -> Exported:
    """Write what the first exporter makes that is as wanted; where none does, raise what the first one failed with."""
    if simplify:
        require("onnxsim")
    trials = list(_trials(model, wanted))
    errors: list[ReparamError] = []
    for exporter in _exporters(opset):
        try:
            file = export(model, list(wanted.inputs.values()), _settings(exporter, wanted, opset))
            file = simplified(file) if simplify else file
            _require_wanted(file, wanted, opset)
            rename(file.model.graph, [*wanted.inputs, *(wanted.outputs or _names(trials[0][1]))])
            with atomic_path(path) as temporary:
                temporary.write_bytes(file.model.SerializeToString())
                error = _checked(model, temporary, trials)
        except (InputError, VerificationError) as failed:
            errors.append(failed)
            continue
        graph = file.model.graph
        return Exported(
            exporter,
            simplify,
            opset=_opset(file),
            inputs={info.name: _dimensions(info) for info in graph_inputs(file.model)},
            outputs={info.name: _dimensions(info) for info in graph.output},
            error=error,
        )
    raise errors[0]


def _exporters(opset: int | None) -> list[Exporter]:
    """Return the exporters that there are, the likelier one first."""
    if find_spec("onnxscript") is None:
        return ["torchscript"]
    older = opset is not None and opset < _OLDEST_OF_DYNAMO
    return ["torchscript", "dynamo"] if older else ["dynamo", "torchscript"]


def _settings(exporter: Exporter, wanted: Interface, opset: int | None) -> dict[str, Any]:
    """Return the arguments of ``torch.onnx.export``. Inputs get names that no exporter refuses, until it is done."""
    settings: dict[str, Any] = {**USUAL[exporter]}
    if opset is not None:
        settings["opset_version"] = opset
    if wanted.free and exporter == "dynamo":
        settings["dynamic_shapes"] = tuple(wanted.free.get(name, {}) for name in wanted.inputs)
    elif wanted.free:
        settings["input_names"] = [f"input{number}" for number in range(len(wanted.inputs))]
        free = (wanted.free.get(name, {}) for name in wanted.inputs)
        settings["dynamic_axes"] = dict(zip(settings["input_names"], free, strict=True))
    return settings


def _names(outputs: Outputs) -> list[str]:
    """Return what outputs of no given names are called: by the keys of a dictionary, by number, or ``output``."""
    keys = [re.sub(r"^.*\['?(.+?)'?\]$", r"\1", name) for name in outputs]
    if all(key.isidentifier() for key in keys) and len({*keys}) == len(keys):
        return keys
    return [f"output{number}" for number in range(len(keys))]


def _require_wanted(file: OnnxFile, wanted: Interface, opset: int | None) -> None:
    """Refuse a file that the exporter has made otherwise than it was told to, without a word."""
    if opset is not None and _opset(file) != opset:
        raise InputError(
            f"torch writes the model in opset {_opset(file)} and cannot in {opset}: take another (--opset)"
        )
    found = [_dimensions(info) for info in graph_inputs(file.model)]
    if len(found) != len(wanted.inputs):
        raise InputError(
            f"torch.onnx.export leaves {len(found)} inputs of {', '.join(wanted.inputs)}: the model uses no others"
        )
    for dimensions, name in zip(found, wanted.inputs, strict=True):
        for axis, label in wanted.free.get(name, {}).items():
            if not isinstance(dimensions[axis], str):
                raise InputError(
                    f"the model fixes dimension {axis} of {name!r} at {dimensions[axis]}: {label!r} cannot be free"
                )
    if wanted.outputs is not None and len(file.model.graph.output) != len(wanted.outputs):
        raise InputError(
            f"the model has {len(file.model.graph.output)} outputs, and names are given for {len(wanted.outputs)}: "
            f"{', '.join(wanted.outputs)}"
        )


def _opset(file: OnnxFile) -> int:
    return next(int(o.version) for o in file.model.opset_import if o.domain in ("", "ai.onnx"))


def _dimensions(info: ValueInfoProto) -> list[int | str]:
    dims = info.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]


def _trials(model: nn.Module, wanted: Interface) -> Iterator[tuple[list[Tensor], Outputs, Outputs]]:
    """Yield inputs, at the sizes traced and others, with what the model makes of them, also in float64 if it runs so.

    Raises:
        InputError: the model does not run, or only at one size of what is to be free.
    """
    generator = torch.Generator().manual_seed(0)
    run, exact = runner(model), runner(model, torch.float64)
    given = list(wanted.inputs.values())
    choices: list[tuple[str | None, list[list[Tensor]]]] = [
        (None, [given]),
        (None, [wanted.at({}, generator)]),
    ]
    for label, size in wanted.labels().items():
        sizes = [size + 1, size * 2, size // 2, size - 1, 1]
        choices.append((label, [wanted.at({label: other}, generator) for other in sizes if other > 0]))
    for free, candidates in choices:
        for inputs in candidates:
            try:
                outputs = run(inputs)
            except InputError:
                if inputs is candidates[-1]:
                    if free is None:
                        raise
                    raise InputError(
                        f"the model runs at no other size of {free!r} than {wanted.labels()[free]}: leave it fixed"
                    ) from None
            else:
                yield inputs, outputs, _exactly(exact, inputs) or outputs
                break


def _exactly(run: Any, inputs: Sequence[Tensor]) -> Outputs | None:
    try:
        found: Outputs = run([x.double() if x.is_floating_point() else x for x in inputs])
    except InputError:  # it makes tensors of a dtype of its own
        return None
    return found


def _checked(model: nn.Module, path: Path, trials: Sequence[tuple[list[Tensor], Outputs, Outputs]]) -> float:
    """Return how far the file is from the model, in units of an output's largest value.

    Raises:
        VerificationError: further than rounding explains.
    """
    inputs, expected, exact = zip(*trials, strict=True)
    own = {error.name: error for error in errors_of(exact, expected, {})}
    worst = 0.0
    for _, session in opened(model, path):
        for error in errors_of(expected, [session(run) for run in inputs], {}):
            # A NaN in the file alone is no number below the bound, either.
            if not error.relative <= max(error.tolerance, _TIMES_OWN * _relative(own, error)):
                raise VerificationError(
                    f"what torch.onnx.export makes of the model computes something else, so nothing was written: "
                    f"{error}; it may hold control flow or numbers that depend on the inputs traced on"
                )
            worst = max(worst, error.relative)
    return worst


def _relative(own: Mapping[str, OutputError], error: OutputError) -> float:
    return own[error.name].relative if error.name in own else 0.0
