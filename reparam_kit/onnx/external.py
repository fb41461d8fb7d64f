"""The files in which a model keeps tensors outside itself: regular files beside it, no larger than what they hold.

A model says where its tensors lie, and may come from a stranger. So this is asked before anything opens such a file,
onnxruntime included.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePath

from onnx import TensorProto

from reparam_kit.errors import InputError
from reparam_kit.files import require_file

# What several tensors that lie at one place, or gaps between tensors, may come to beside what is stored.
_SLACK = 2**28


def is_external(tensor: TensorProto) -> bool:
    """Return whether the numbers of ``tensor`` lie in another file than the model."""
    return tensor.data_location == TensorProto.EXTERNAL


def address(tensor: TensorProto) -> tuple[str, int, int | None]:
    """Location, first byte and end (``None``: the file's) of an external tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        location, start = entries["location"], int(entries.get("offset", 0))
        stop = start + int(entries["length"]) if "length" in entries else None
    except (KeyError, ValueError) as error:
        raise InputError(
            f"tensor {tensor.name!r} has a malformed address of its external data: {error!r}"
        ) from error
    if start < 0 or (stop is not None and stop < start):
        raise InputError(f"tensor {tensor.name!r} has a negative offset or length of its external data")
    return location, start, stop


def external_files(tensors: Iterable[TensorProto], model: Path) -> dict[str, Path]:
    """Return the files, by location, in which the external ones of ``tensors`` of the file ``model`` lie.

    Raises:
        InputError: one is missing, is not a regular file, lies outside the folder of ``model``, ends before a tensor
            does, or is far larger or far smaller than the tensors in it.
    """
    files: dict[str, Path] = {}
    used: dict[str, int] = defaultdict(int)
    for tensor in filter(is_external, tensors):
        location, start, stop = address(tensor)
        if location not in files:
            files[location] = _beside(model, location)
        size = files[location].stat().st_size
        stop = size if stop is None else stop
        if not start <= stop <= size:
            raise InputError(
                f"{model} keeps tensor {tensor.name!r} in bytes {start} to {stop} of {location!r}, which has {size}: "
                "it is truncated, or belongs to another model"
            )
        used[location] += stop - start
    for location, path in files.items():
        size = path.stat().st_size
        if not size / 2 - _SLACK <= used[location] <= 2 * size + _SLACK:
            raise InputError(
                f"{path} has {size:,} bytes, and {model} keeps {used[location]:,} bytes of tensors in it: one of the "
                "two is not what it should be"
            )
    return files


def _beside(model: Path, location: str) -> Path:
    folder, parts = model.parent.resolve(), PurePath(location)
    inside = "\0" not in location and ".." not in parts.parts and not parts.is_absolute()
    if not inside or not (folder / location).resolve().is_relative_to(folder):
        raise InputError(f"{model} keeps tensors in {location!r}, outside its own folder; it is not read")
    return require_file(folder / location, "a model whose tensors lie beside it")
