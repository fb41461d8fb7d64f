"""What the inputs and outputs of a new ONNX file are to be: found from the caller's words, or from the model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from onnx import GraphProto
from torch import Tensor, nn

from reparam_kit.errors import InputError, suggestion
from reparam_kit.inputs import Inputs, arguments
from reparam_kit.onnx.noise import Shapes, noise
from reparam_kit.onnx.provenance import Provenance
from reparam_kit.onnx.run import Session
from reparam_kit.onnx.write_back import write_back

Free = Mapping[str, Mapping[int, str]]
"""Of inputs by name, what each free dimension is called."""


@dataclass(frozen=True)
class Interface:
    """What to trace a model on, by the names of its inputs; their free dimensions; and the names of its outputs
    (None: not said).
    """

    inputs: Mapping[str, Tensor]
    free: Free
    outputs: Sequence[str] | None = None

    def labels(self) -> dict[str, int]:
        """Return the size that each free dimension, by name, is traced at."""
        return {
            label: self.inputs[name].shape[axis]
            for name, axes in self.free.items()
            for axis, label in axes.items()
        }

    def at(self, sizes: Mapping[str, int], generator: torch.Generator) -> list[Tensor]:
        """Return inputs drawn at random from the values that it is traced on, with other sizes where some are given."""
        drawn = []
        for name, x in self.inputs.items():
            shape = list(x.shape)
            for axis, label in self.free.get(name, {}).items():
                shape[axis] = sizes.get(label, shape[axis])
            drawn.append(x.flatten()[torch.randint(max(x.numel(), 1), shape, generator=generator)])
        return drawn


def interface(
    model: nn.Module,
    examples: Inputs | Mapping[str, Tensor] | None,
    shapes: Shapes | None,
    free: str | Free | None,
    outputs: Sequence[str] | None,
) -> Interface:
    """Return the interface for a file of ``model``; the arguments are those of ``export_onnx``.

    Raises:
        InputError: nothing says the sizes of its inputs, or what is said does not fit.
    """
    provenance: Provenance | None = getattr(model, "meta", {}).get("onnx")
    if outputs is None and provenance is not None:
        outputs = provenance.outputs
    if examples is None and shapes is None and provenance is not None:
        found, declared = _of_file(model)
        free = declared if free is None else free
    else:
        found = _named(model, provenance, _examples(model, examples, shapes))
    axes = _axes(free or {}, found)
    twice = {name: _no_ones(x, axes.get(name, {})) for name, x in found.items()}
    if len({*found, *(outputs or ())}) < len(found) + len(outputs or ()):
        raise InputError(
            f"the names of inputs and outputs are not all different: {[*found, *(outputs or ())]}"
        )
    wanted = Interface(twice, axes, outputs)
    for label, size in wanted.labels().items():
        if any(
            twice[name].shape[axis] != size
            for name in axes
            for axis in axes[name]
            if axes[name][axis] == label
        ):
            raise InputError(
                f"dynamic: the dimensions called {label!r} are of several sizes: call them by several names"
            )
    return wanted


def _examples(
    model: nn.Module, examples: Inputs | Mapping[str, Tensor] | None, shapes: Shapes | None
) -> Mapping[str, Tensor] | tuple[Tensor, ...]:
    """Return what is said to trace the model on, or what it says of itself: as Lightning's modules do, or timm's."""
    if shapes:
        return {name: _normal(model, shape) for name, shape in shapes.items()}
    if examples is None:
        examples = getattr(model, "example_input_array", None)
    if examples is not None:
        given = examples if isinstance(examples, Mapping) else arguments(examples)
        tensors = list(given.values()) if isinstance(given, Mapping) else list(given)
        if not tensors or not all(isinstance(x, Tensor) for x in tensors):
            raise InputError(
                "example_inputs are a tensor, several in a list, or tensors by the names of the inputs"
            )
        if isinstance(given, Mapping):
            return {name: x.detach().cpu() for name, x in given.items()}
        return tuple(x.detach().cpu() for x in given)
    settings = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = settings.get("input_size") if isinstance(settings, Mapping) else None
    if size:
        return (_normal(model, (1, *size)),)
    first, *others = _parameters(model) or ["x"]
    more = f" and likewise of {', '.join(others)}, where it is to be given" if others else ""
    raise InputError(
        f"say the sizes of the input {first!r} of the model{more}: shapes={{{first!r}: (1, 3, 112, 112)}} "
        f"(--shape {first}=1,3,112,112) with its own; or give example_inputs (--inputs)"
    )


def _normal(model: nn.Module, shape: Sequence[int]) -> Tensor:
    types = (p.dtype for p in model.parameters() if p.is_floating_point())
    values = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    return values.to(next(types, torch.float32))


def _of_file(model: nn.Module) -> tuple[dict[str, Tensor], Free]:
    """Return noise for the inputs of the file that the model was read from, and their free dimensions."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_back(model, path)
        session = Session(path, optimised=False)
        tensors = noise([session], [2, 1])[0]
        graph = session.graph
    stored = {tensor.name for tensor in graph.initializer}
    infos = [info for info in graph.input if info.name not in stored]
    free = {
        info.name: {
            axis: dim.dim_param if dim.dim_param.isidentifier() else f"axis{axis}"
            for axis, dim in enumerate(info.type.tensor_type.shape.dim)
            if not dim.HasField("dim_value")
        }
        for info in infos
    }
    return {info.name: x for info, x in zip(infos, tensors, strict=True)}, free


def _named(
    model: nn.Module, provenance: Provenance | None, given: Mapping[str, Tensor] | tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """Return inputs in the order of the model's forward. Where all have names of its own, these say the order."""
    own = list(provenance.inputs) if provenance is not None else _parameters(model)
    if isinstance(given, Mapping):
        order = sorted(given, key=own.index) if set(given) <= set(own) else list(given)
        return {name: given[name] for name in order}
    names = own if len(own) >= len(given) else [f"input{number}" for number in range(len(given))]
    return dict(zip(names, given, strict=False))


def _parameters(model: nn.Module) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a forward of another language than Python
        return []
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _axes(free: str | Free, inputs: Mapping[str, Tensor]) -> dict[str, dict[int, str]]:
    """Return the free dimensions of each input. A name alone is that of the first dimension of all."""
    if isinstance(free, str):
        free = {name: {0: free} for name in inputs}
    for name, axes in free.items():
        if name not in inputs:
            raise InputError(
                f"dynamic: there is no input {name!r} to have a free dimension; {suggestion(name, inputs, 'inputs')}"
            )
        for axis, label in axes.items():
            if axis not in range(inputs[name].dim()):
                raise InputError(
                    f"dynamic: input {name!r} has {inputs[name].dim()} dimensions, and none is number {axis}"
                )
            if not label.isidentifier():
                raise InputError(
                    f"dynamic: a dimension cannot be called {label!r}: take letters, digits and _"
                )
    return {name: dict(axes) for name, axes in free.items() if axes}


def _no_ones(x: Tensor, free: Mapping[int, Any]) -> Tensor:
    """Return ``x``, twice along each free dimension of size 1, which ``torch.export`` takes for a fixed one."""
    for axis in free:
        if x.shape[axis] == 1:
            x = x.repeat_interleave(2, axis)
    return x


def rename(graph: GraphProto, names: Sequence[str]) -> None:
    """Give the inputs and outputs of ``graph`` these names, which exporters refuse some of. What else has one of them
    gets another.

    Raises:
        InputError: there are not as many inputs and outputs.
    """
    stored = {tensor.name for tensor in graph.initializer}
    ends = [
        *(info.name for info in graph.input if info.name not in stored),
        *(info.name for info in graph.output),
    ]
    if len(set(ends)) != len(names):
        raise InputError(f"the file would have the inputs and outputs {ends}, and is to have {list(names)}")
    new = dict(zip(ends, names, strict=True))
    used = {name for part in _graphs(graph) for name in _values(part)} | {*names}
    for taken in {*names} - {*ends}:
        free = next(f"{taken}_{number}" for number in range(len(used) + 1) if f"{taken}_{number}" not in used)
        new[taken] = free
        used.add(free)
    for part in _graphs(graph):
        values: list[Any] = [*part.input, *part.output, *part.value_info, *part.initializer]
        for value in values:
            value.name = new.get(value.name, value.name)
        for node in part.node:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for part in (attribute.g, *attribute.graphs):
                if part.ByteSize():
                    yield from _graphs(part)


def _values(graph: GraphProto) -> Iterator[str]:
    yield from (info.name for info in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (name for node in graph.node for name in (*node.input, *node.output))
