"""What a face net takes and gives: the input that its file fixes, and which of its outputs is the embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto
from torch import Tensor, nn

from reparam_kit import InputError, suggestion

_CHANNELS_LAST = "export it with channels first (tf2onnx: --inputs-as-nchw)"


@dataclass(frozen=True)
class Taken:
    """An input of a model's file. ``shape`` holds None for an axis of any length; it is None where nothing is said."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name} {self.dtype}"
        return f"{self.name} {self.dtype} [{', '.join('?' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """What a model's file says of its inputs, and the names of its outputs."""

    inputs: tuple[Taken, ...]
    outputs: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, where the file fixes both."""
        shape = self.inputs[0].shape if len(self.inputs) == 1 else None
        if shape is None or len(shape) != 4 or shape[2] is None or shape[3] is None:
            return None
        return shape[2], shape[3]

    def require_images(self, who: str, dtypes: Sequence[str] = ("float32",)) -> None:
        """Raise InputError unless one batch of images ``[N, C, H, W]``, C 1 or 3, is taken, in one of ``dtypes``."""
        advice = self._advice(dtypes)
        if advice is not None:
            inputs = ", ".join(map(str, self.inputs)) or "nothing"
            raise InputError(f"{who} takes {inputs}; a face net takes one {dtypes[0]} [N, 3, H, W]: {advice}")

    def require_size(self, who: str, images: Sequence[int], what: str) -> None:
        """Raise InputError where channels, height or width are fixed, and those of ``what`` ``[C, H, W]`` differ."""
        wanted = self.inputs[0].shape
        if wanted is None:
            return
        if wanted[1] not in (None, images[0]):
            raise InputError(
                f"{who} takes images of {'one channel' if wanted[1] == 1 else f'{wanted[1]} channels'}, and {what} of "
                f"{images[0]}{channels_advice(images[0])}"
            )
        fixed = wanted[2:]
        if any(size not in (None, have) for size, have in zip(fixed, images[1:], strict=True)):
            text = " x ".join("any" if size is None else str(size) for size in fixed)
            raise InputError(
                f"{who} takes images of {text} pixels (height x width), and {what} {images[1]} x {images[2]}: "
                "align the faces to the size of the model, or name a model of theirs"
            )

    def _advice(self, dtypes: Sequence[str]) -> str | None:
        """Return what to do about a file that takes something else, or None."""
        if len(self.inputs) != 1:
            return "export the net alone"
        given = self.inputs[0]
        shape = given.shape
        if shape is not None and len(shape) != 4:
            return "export the net with its images as they come from a batch"
        if shape is not None and shape[1] not in (None, 1, 3):
            return _CHANNELS_LAST if shape[3] in (1, 3) else "it is for images of another kind"
        if given.dtype not in dtypes:
            if given.dtype in ("float16", "bfloat16", "double"):
                return "convert it to float32 first"
            return "leave the conversion from integers out of the file, and say it as the input preset"
        return None


def channels_advice(channels: int) -> str:
    """Return what to do where a net takes other images than those of so many channels, with a colon before."""
    if channels == 1:
        return ": repeat the channel in the dataset (image.expand(3, -1, -1)) for a net that takes RGB"
    return ": an input such as 'insightface-grey' makes one channel of RGB" if channels == 3 else ""


def read_signature(model: str | Path | nn.Module) -> Signature | None:
    """Return what the file of a model says: of an ``.onnx`` file, or that a module was loaded from; None where there is
    none.

    A file that is damaged or missing says nothing here: what opens it next has a line for it.
    """
    provenance = getattr(model, "meta", {}).get("onnx")
    if isinstance(model, nn.Module):
        content = None if provenance is None else provenance.payload
    else:
        content = Path(model).read_bytes() if Path(model).is_file() else None
    if content is None:
        return None
    try:
        graph = onnx.load_model_from_string(content).graph
    except DecodeError:
        return None
    stored = {tensor.name for tensor in graph.initializer}  # before IR version 4, these are inputs too
    inputs = tuple(_taken(value) for value in graph.input if value.name not in stored)
    if provenance is not None and provenance.partial:
        return Signature(tuple(i for i in inputs if i.name in provenance.inputs), provenance.outputs)
    return Signature(inputs, tuple(value.name for value in graph.output))


def _taken(value: onnx.ValueInfoProto) -> Taken:
    kind = value.type.tensor_type
    name = TensorProto.DataType.Name(kind.elem_type).lower() if kind.elem_type else "of no type"
    dtype = {"float": "float32"}.get(name, name)
    if not kind.HasField("shape"):
        return Taken(value.name, dtype, None)
    return Taken(value.name, dtype, tuple(axis.dim_value or None for axis in kind.shape.dim))


def named_outputs(output: object, names: Sequence[str] = (), name: str = "output") -> dict[str, Tensor]:
    """Return the tensors that a net returns, alone or in tuples, lists, dicts and objects, by name.

    Outputs of a tuple are called as ``names`` says, or ``0``, ``1`` and so on; what is nested has a name such as
    ``heads.quality``. A single tensor is called ``name``.
    """
    if isinstance(output, Tensor):
        return {names[0] if len(names) == 1 else name: output}
    parts: dict[Any, Any]
    if isinstance(output, Mapping):
        parts = dict(output)
    elif hasattr(output, "_asdict"):
        parts = output._asdict()
    elif isinstance(output, tuple | list):
        parts = (
            dict(zip(names, output, strict=True)) if len(names) == len(output) else dict(enumerate(output))
        )
    else:
        parts = vars(output) if hasattr(output, "__dataclass_fields__") else {}
    found: dict[str, Tensor] = {}
    for key, part in parts.items():
        nested = named_outputs(part, (), str(key))
        found |= nested if isinstance(part, Tensor) else {f"{key}.{inner}": t for inner, t in nested.items()}
    return found


class EmbeddingOf:
    """Takes the embedding out of what a net returns.

    It is the output called ``wanted``; without a name, the only one with several numbers an image.

    Args:
        signature: what the model's file says: the names of its outputs; None where there is no file.
        wanted: name of the output; None where one alone can be it.
        who: what messages call the model.
        maps: whether a map ``[N, C, H, W]`` is wanted, and no embedding.
    """

    def __init__(
        self,
        signature: Signature | None,
        wanted: str | None = None,
        who: str = "the model",
        maps: bool = False,
    ) -> None:
        self._names = signature.outputs if signature is not None else ()
        self._wanted = wanted
        self._who = who
        self._kind = "map" if maps else "embedding"
        self._chosen: str | None = None

    def named(self, output: object) -> dict[str, Tensor]:
        """Return every output by name."""
        return named_outputs(output, self._names)

    def __call__(self, output: object, images: int) -> Tensor:
        """Return the embedding of each of ``images`` images, ``[N, D]``, or the map of each.

        Raises:
            InputError: there is no output of that name, none or several could be the embedding, or what is named is
                none.
        """
        outputs = self.named(output)
        name = self.choose(outputs, images)
        embedding = outputs[name]
        if len(embedding) != images:
            raise InputError(self._none(outputs, images))
        return embedding if self._kind == "map" else embedding.flatten(1)

    def choose(self, outputs: Mapping[str, Tensor], images: int) -> str:
        """Return the name of the embedding among ``outputs``, chosen once."""
        if self._chosen is None or self._chosen not in outputs:
            self._chosen = self._choose(outputs, images)
        return self._chosen

    def _choose(self, outputs: Mapping[str, Tensor], images: int) -> str:
        fitting = [name for name, tensor in outputs.items() if _is(self._kind, tensor, images)]
        if self._wanted is not None:
            if self._wanted not in outputs:
                raise InputError(
                    f"{self._who} has no output {self._wanted!r}: {suggestion(self._wanted, outputs, 'outputs')}"
                )
            if self._wanted not in fitting:
                only = {self._wanted: outputs[self._wanted]}
                raise InputError(self._none(only, images))
            return self._wanted
        if len(fitting) > 1:
            listed = _listed({name: outputs[name] for name in fitting})
            raise InputError(
                f"{self._who} has several outputs that could be the {self._kind}, {listed}: name it (embedding=; "
                "--embedding for evaluate, --student-output or --teacher-output for tsmr)"
            )
        if not fitting:
            raise InputError(self._none(outputs, images))
        return fitting[0]

    def _none(self, outputs: Mapping[str, Tensor], images: int) -> str:
        kinds = {_kind(tensor, images) for tensor in outputs.values()}
        advice = ""
        if "map" in kinds:
            advice += (
                ": a map is pooled or flattened in the net first, or trained by losses that take maps alone"
            )
        if "number" in kinds:
            advice += ": one number an image is no embedding"
        if self._kind in kinds:
            advice = ": its numbers are integers; name a model that gives them in floating point"
        return f"{self._who} gives {_listed(outputs)} for {images} images, not one {self._kind} each{advice}"


def _kind(output: Tensor, images: int) -> str:
    if output.ndim == 0 or len(output) != images:
        return "other"
    long = sum(size > 1 for size in output.shape[1:])
    return ("number", "embedding")[long] if long < 2 else "map"


def _is(kind: str, output: Tensor, images: int) -> bool:
    return output.is_floating_point() and _kind(output, images) == kind


def _listed(outputs: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in outputs.items()) or "no tensor"
