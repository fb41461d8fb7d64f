"""The way back: a trained model's numbers in the ONNX file it was read from, and nothing else in that file changed.

The original is parsed, the weights that moved are overwritten where they lie, and the result is serialised. Before a
file is written, the result is parsed again and held against the original: same structure, and every weight either
bit for bit what it was or exactly what the module holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from reparam_kit.atomic import atomic_paths
from reparam_kit.errors import InputError, VerificationError
from reparam_kit.onnx.diff import compare
from reparam_kit.onnx.external import is_external
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.provenance import FakeGrid, Provenance, Source
from reparam_kit.onnx.scales import OwnScale
from reparam_kit.onnx.weights import (
    OnnxFile,
    all_tensors,
    dtype_name,
    parse_onnx,
    rounded,
    stored_tensors,
    weights,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    Model = TypeVar("Model", bound=nn.Module)

Values = dict[TensorKey, NDArray[Any]]


def write_back(module: nn.Module, path: str | Path) -> None:
    """Write the ONNX file that ``module`` was imported from, with the module's weights, to ``path``.

    A weight that did not change keeps its bytes. One that did is rounded once to the dtype that the file stores it
    in, and stored as it was: raw or typed data, in an initializer or a ``Constant`` node. One that the file stores
    quantised goes to the nearest of its levels, whose scale stays, unless the model was loaded with
    ``scales="weights"`` and the weight has grown beyond them. External data goes to
    ``<name of path>.data`` beside the new file, at the same offsets (``.0.data``, ``.1.data``, ... where the original
    has several such files). The original files are not touched unless ``path`` is one of them.

    Raises:
        InputError: ``module`` was not imported from ONNX, is not folded, lacks one of the tensors
            or has it in another size; two tensors that are one in the file differ; a value is not finite in the
            file's dtype; or ``path`` cannot be written.
        VerificationError: what would be written differs from the original in more than weights. No file is written.
    """
    path = Path(path)
    provenance: Provenance | None = getattr(module, "meta", {}).get("onnx")
    if provenance is None:
        raise InputError(
            "the model was not loaded from an ONNX file, so there is none to write its weights into: load the "
            "deployed .onnx and train that model, or write a new file: reparam_kit.export_onnx(model, 'model.onnx', "
            "shapes={'x': (1, 3, 112, 112)}), reparam-kit export MODEL --shape x=1,3,112,112 -o model.onnx"
        )
    _require_folded(module)
    name = str(provenance.path or "the original")
    original = OnnxFile(parse_onnx(provenance.payload, name), provenance.external)
    moved = _moved(module, provenance, original)

    edited = OnnxFile(
        parse_onnx(provenance.payload, name), {k: bytearray(v) for k, v in original.external.items()}
    )
    stored = stored_tensors(edited.model)
    for key, values in moved.items():
        _require_finite(key, values, stored[key])
        edited.write(stored[key], values)
    renamed = _rename_external(edited, path)
    if provenance.path is not None and path.resolve() != provenance.path.resolve():
        data_files = {(provenance.path.parent / location).resolve() for location in original.external}
        if any((path.parent / location).resolve() in data_files for location in renamed):
            raise InputError(
                f"{path} would overwrite the external data of {name}; choose another name or folder"
            )
    payload = edited.model.SerializeToString()

    places = list((provenance.scales or {}).values())
    _check(original, OnnxFile(parse_onnx(payload, str(path)), renamed), moved, places)
    contents = {path: payload, **{path.parent / location: data for location, data in renamed.items()}}
    with atomic_paths(list(contents)) as temporaries:
        for temporary, content in zip(temporaries, contents.values(), strict=True):
            temporary.write_bytes(content)


def as_written(model: Model) -> Model:
    """Return a copy of ``model`` whose weights are those that :func:`write_back` would write.

    They are what the type that the file stores them in can hold, such as float16. Layers whose weights it stores as
    integers keep theirs, which they round in each pass. A model that did not come from ONNX is copied as it is.

    Raises:
        InputError: ``model`` came from ONNX and is not folded, lacks one of the tensors or has it in another size, or
            holds a value that is not finite in the file's dtype.

    >>> net = as_written(rk.load("deployed.onnx"))
    """
    import torch

    from reparam_kit.substitution import duplicate

    copied = duplicate(model)
    provenance: Provenance | None = getattr(copied, "meta", {}).get("onnx")
    if provenance is None:
        return copied
    _require_folded(copied)
    original = OnnxFile(parse_onnx(provenance.payload, "the original"), provenance.external)
    stored, state = stored_tensors(original.model), copied.state_dict(keep_vars=True)
    for name, source in provenance.tensors.items():
        if source.grid is not None and not isinstance(source.grid, FakeGrid):
            continue
        tensor, held = stored[source.key], _tensor(state, name, source)
        new = source.changed(original.read(tensor), held)
        if new is not None:
            _require_finite(source.key, new, tensor)
            values = source.values(rounded(new, tensor).reshape(source.shape)).astype(np.float64)
            held.data.copy_(torch.from_numpy(values).reshape(held.shape))
    for name, (scale, place) in provenance.new_scales(copied).items():
        for own, source in provenance.tensors.items():
            if source.key == place:  # a number that the graph multiplies sums by
                number = torch.from_numpy(source.values(scale.reshape(source.shape)).copy())
                state[own].data.copy_(number.reshape(state[own].shape))
                copied.get_buffer(f"{name}_scale").copy_(torch.from_numpy(scale))
    return copied


def _require_folded(module: nn.Module) -> None:
    # With torch, which comparing two files does without.
    from reparam_kit.algebra import Expanded
    from reparam_kit.restoration import Restored

    if any(isinstance(part, Expanded | Restored) for part in module.modules()):
        raise InputError(
            "the model still has expanded layers or restored BatchNorms, which the file has no place for; fold it first"
        )


def _require_finite(key: TensorKey, values: NDArray[Any], tensor: TensorProto) -> None:
    finite = np.isfinite(values).reshape(-1) & np.isfinite(rounded(values, tensor))
    if not finite.all():
        raise InputError(
            f"{key}: {(~finite).sum()} of {finite.size} new values are NaN, infinite or too large for "
            f"{dtype_name(tensor)}; the training diverged, so write an earlier state of the model"
        )


def _tensor(state: Mapping[str, Tensor], name: str, source: Source) -> Tensor:
    if name not in state:
        raise InputError(f"the model has no tensor {name!r} any more, which is {source.key}")
    return state[name]


def _moved(module: nn.Module, provenance: Provenance, original: OnnxFile) -> Values:
    """Return the new numbers of each tensor whose old ones, as the module's dtype holds them, are not the module's."""
    state = module.state_dict(keep_vars=True)
    stored, trainable = stored_tensors(original.model), weights(original.model)
    found: dict[TensorKey, tuple[str, NDArray[Any] | None]] = {}
    scales = provenance.new_scales(module)
    places = {place for _, place in scales.values()}
    for name, source in provenance.tensors.items():
        key, tensor = source.key, _tensor(state, name, source)
        if key in places:
            continue
        new = source.changed(original.read(stored[key]), tensor)
        if name in scales and not isinstance(source.grid, FakeGrid):
            new = source.rescaled(scales[name][0]).to_onnx(tensor)  # all of it, on the new grid
        if new is not None and key not in trainable:
            raise InputError(
                f"{key} was changed, but it is a part of the graph's structure, not a weight; restore it"
            )
        owner, other = found.setdefault(key, (name, new))
        same = new is other or (
            new is not None and other is not None and np.array_equal(new, other, equal_nan=True)
        )
        if not same:
            raise InputError(
                f"{owner!r} and {name!r} differ, but both are {key} in the file; share one parameter"
            )
    moved = {key: new for key, (_, new) in found.items() if new is not None}
    for scale, place in scales.values():
        if place is not None:
            dims = tuple(stored[place].dims)
            moved[place] = np.broadcast_to(scale.reshape(-1), prod(dims)).reshape(dims)
    return moved


def _rename_external(file: OnnxFile, path: Path) -> dict[str, bytes]:
    """Let the model at ``path`` point to data files of its own; their names and contents."""
    several = len(file.external) > 1
    names = {
        old: f"{path.name}.{i}.data" if several else f"{path.name}.data"
        for i, old in enumerate(file.external)
    }
    digests = {old: hashlib.sha1(data).hexdigest() for old, data in file.external.items()}
    for tensor in all_tensors(file.model):
        if is_external(tensor):
            entries = {entry.key: entry for entry in tensor.external_data}
            old = entries["location"].value
            entries["location"].value = names[old]
            if "checksum" in entries:
                entries["checksum"].value = digests[old]
    return {names[old]: bytes(data) for old, data in file.external.items()}


def _check(original: OnnxFile, written: OnnxFile, moved: Values, places: Collection[OwnScale]) -> None:
    found = compare(original, written, places)
    if not found.same_graph:
        parts = "; ".join(map(str, found.changes[:3]))
        raise VerificationError(
            f"writing the weights back would change more than weights, so it was not done: {parts}", found
        )
    before, after = stored_tensors(original.model), stored_tensors(written.model)
    for key in {**weights(written.model), **moved}:
        tensor = after[key]
        expected = moved[key] if key in moved else original.read(before[key])
        bits, expected_bits = (rounded(v, tensor).tobytes() for v in (written.read(tensor), expected))
        if bits != expected_bits:
            raise VerificationError(
                f"{key} would not hold what the model holds, because its external data overlaps that of another "
                "tensor, so nothing was written; save the original so that each tensor has its own bytes"
            )
