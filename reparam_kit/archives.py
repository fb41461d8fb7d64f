"""Archives of ``torch.save``: an expanded ONNX model as tensors and text, a state_dict, or whatever another wrote.

They are read with ``weights_only=True``, which runs nothing that the file carries.
"""

from __future__ import annotations

import pickle
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor, nn

from reparam_kit.digests import fingerprint
from reparam_kit.errors import InputError, UnsafeFileError, first_line
from reparam_kit.kinds import TORCH, refuse_others
from reparam_kit.record import record, repeat

_EXPANDED = "reparam-kit expanded ONNX model"
_FORMAT = f"{_EXPANDED} 4"


def archive(model: nn.Module) -> nn.Module | dict[str, Any]:
    """Return what ``torch.save`` is to write: of an expanded ONNX model tensors and text, else the model itself."""
    provenance = getattr(model, "meta", {}).get("onnx")
    recorded = record(model)
    if provenance is None or not recorded:
        return model
    content = {
        "format": _FORMAT,
        "onnx": provenance.payload,
        "external": dict(provenance.external),
        "outputs": list(provenance.outputs) if provenance.partial else None,
        "scales": "kept" if provenance.scales is None else "weights",
        "record": recorded,
        "state": dict(model.state_dict()),
    }
    return {**content, "sha256": fingerprint(content)}


def is_expanded(content: object) -> bool:
    """Return whether ``content`` is what ``archive`` made of an expanded ONNX model."""
    return isinstance(content, dict) and str(content.get("format")).startswith(_EXPANDED)


def rebuild(path: Path, content: dict[str, Any]) -> nn.Module:
    """Make the model of what ``archive`` made, read from ``path``.

    Raises:
        InputError: it is damaged, of another version, or its parts do not belong together.
    """
    from reparam_kit.onnx.importer import import_file
    from reparam_kit.onnx.importer.following import let_scales_follow
    from reparam_kit.onnx.scales import require_scales
    from reparam_kit.onnx.weights import OnnxFile, parse_onnx

    if content["format"] != _FORMAT:
        raise InputError(f"{path} was written by another version of reparam-kit: expand the ONNX file again")
    with _of_one_expansion(path):
        tensors = _distinct(content["state"])
    require_sound(path, content.pop("sha256", None), content)
    with _of_one_expansion(path):
        onnx, external, outputs = content["onnx"], content["external"], content["outputs"]
        if not all(isinstance(part, bytes) for part in (onnx, *external.values())):
            raise TypeError("the ONNX model is not in bytes")
        file = OnnxFile(parse_onnx(onnx, "the ONNX model"), external)
        imported = import_file(file, onnx, outputs=outputs)
        if require_scales(content.get("scales", "kept")):  # older archives do not say
            let_scales_follow(imported)
        model: nn.Module = repeat(imported, content["record"], tensors)
        model.load_state_dict(content["state"])
    return model


@contextmanager
def _of_one_expansion(path: Path) -> Iterator[None]:
    """Turn errors of parts that are not what ``save`` wrote into one that names the file."""
    try:
        yield
    except (InputError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise InputError(
            f"{path} does not hold together: its model, layers and weights are not of one expansion: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def _distinct(state: Mapping[str, Tensor]) -> list[Tensor]:
    """Return the tensors of ``state``, those of several names once. ValueError if they repeat what is stored, as views
    may: whatever reads such a tensor takes memory that the file does not have.
    """
    tensors = {(t.data_ptr(), t.shape, t.stride()): t for t in state.values() if not t.is_sparse}
    stored = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()}
    if sum(t.numel() * t.element_size() for t in tensors.values()) > sum(stored.values()):
        raise ValueError("its tensors are larger than what is stored of them")
    return list(tensors.values())


def require_sound(path: Path, checksum: object, content: object) -> None:
    """Refuse a file whose checksum is not that of its content."""
    try:
        found = fingerprint(content)
    except (TypeError, ValueError, RuntimeError):  # what no file of ours holds, such as a sparse tensor
        found = "none"
    if found != checksum:
        raise InputError(
            f"{path} is damaged, or was changed by hand: its checksum is of another content; write it again"
        )


def read_weights(path: Path) -> Any:
    """Read a state_dict, by itself or in a checkpoint.

    Raises:
        InputError: the file holds a whole model.
        UnsafeFileError: it holds pickled objects besides tensors.
    """
    try:
        content = read_torch(path)
    except pickle.UnpicklingError:
        raise UnsafeFileError(
            f"{path} holds pickled objects besides tensors and is not read; save model.state_dict() alone"
        ) from None
    if is_expanded(content):
        raise InputError(f"{path} holds a whole expanded model: load it by its own name, not as weights")
    return content


def read_torch(path: Path) -> Any:
    """Return what torch.save wrote, read without running code; UnpicklingError where that is not possible."""
    refuse_others(path, TORCH)
    with path.open("rb") as file:
        start = file.read(4)
    zipped = start == b"PK\x03\x04"  # as torch tells the two formats of torch.save apart
    if zipped:
        _check_archive(path)
    if zipped or start[:1] == b"\x80":
        try:
            with warnings.catch_warnings():
                # They are about pickle protocols; what cannot be read is refused anyway.
                warnings.simplefilter("ignore")
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise
        except Exception as error:  # damaged files lead it to raise nearly anything
            raise InputError(f"{path} is damaged or truncated: {first_line(error)}") from None
    raise InputError(
        f"{path} is not a file that torch.save wrote; the names of other kinds end in .onnx or .safetensors"
    )


def _check_archive(path: Path) -> None:
    """Refuse what no ``torch.save`` wrote. It compresses nothing, so what an archive unpacks to is no more than its
    size; and it writes a checksum of each entry, which ``torch.load`` does not look at.
    """
    try:
        with ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > path.stat().st_size:
                raise InputError(
                    f"{path} would unpack to {unpacked:,} bytes, which no file that torch.save wrote does"
                )
            damaged = archive.testzip()
    except (
        BadZipFile,
        EOFError,
        NotImplementedError,
        OSError,
        RuntimeError,
        ValueError,
        zlib.error,
    ) as error:
        raise InputError(f"{path} is damaged or truncated: {first_line(error)}") from None
    if damaged is not None:
        raise InputError(
            f"{path} is damaged: the checksum of its entry {damaged!r} is wrong (or torch was told to write none)"
        )
