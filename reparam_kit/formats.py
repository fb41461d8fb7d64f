"""Reading and writing model files. Nothing that a file carries is run unless the caller says so."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from reparam_kit.atomic import atomic_path
from reparam_kit.digests import fingerprint
from reparam_kit.errors import InputError, UnsafeFileError, first_line
from reparam_kit.files import require_file
from reparam_kit.record import record, repeat

_EXPANDED = "reparam-kit expanded ONNX model"
_FORMAT = f"{_EXPANDED} 3"
_RECORD, _CHECKSUM = "reparam_kit", "reparam_kit_sha256"  # keys in the metadata of a .safetensors


def load(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    unsafe: bool = False,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> nn.Module:
    """Return the model that ``model`` names.

    Args:
        model: a ``.onnx`` file; a file written by ``save`` for an expanded ONNX model; a ``.pt`` that holds a pickled
            ``nn.Module`` (only with ``unsafe``); or ``package.module:factory``, a function without arguments that is
            imported and called.
        weights: for a factory, its state_dict: ``.safetensors``, or a ``.pt`` read with ``weights_only=True``. A
            ``.safetensors`` that ``save`` wrote for an expanded model says so: what the factory makes is then expanded
            likewise.
        unsafe: allow unpickling, which runs whatever code the file carries.
        include: of a ``.onnx`` file, patterns (as in fnmatch) of the weights to train, by the names of their layers,
            their own in the model, or those in the file; the others get ``requires_grad=False``. None: all.
        exclude: patterns of those not to train.

    Raises:
        InputError: nothing there, not such a file, or weights that do not fit.
        UnsafeFileError: the file would have to be unpickled.
        UnsupportedError: an ONNX operator without an importer.

    >>> model = load("deployed.onnx")
    >>> model(torch.randn(4, 3, 16, 16)).shape
    torch.Size([4, 16])
    """
    name = str(model)
    path = Path(model)
    if (include or exclude) and path.suffix != ".onnx":
        raise InputError(f"include and exclude choose what is trained of a .onnx file; {name} is none")
    if ":" in name and not path.exists():
        return _from_factory(name, weights)
    if weights is not None:
        raise InputError(f"weights go with package.module:factory; {name} is a file and brings its own")
    require_file(path, "a .onnx, a .pt, or package.module:factory")
    if path.suffix == ".onnx":
        from reparam_kit.onnx import import_onnx

        return import_onnx(path, include=include, exclude=exclude)
    if path.suffix == ".safetensors":
        raise InputError(
            f"{path} holds weights and no net: name the net as package.module:factory (for an ONNX model, a function "
            "that returns reparam_kit.load of it) and this file as its weights (--weights)"
        )
    return _from_archive(path, unsafe)


def save(model: nn.Module, path: str | Path) -> None:
    """Write ``model`` in the format that the suffix of ``path`` names; an existing file is replaced at the end.

    ``.onnx``: the file that the model was loaded from, with its new weights and nothing else changed.
    ``.safetensors``: its state_dict and, of an expanded model, its blocks: ``load`` reads it with the model's factory.
    ``.pt``: an expanded ONNX model becomes an archive of tensors and text that ``load`` reads without running anything;
    any other module is pickled, which ``load`` reads only with ``unsafe``.

    Raises:
        InputError: another suffix; or ``.onnx`` for a model that did not come from one, or is still expanded.

    >>> model = load("deployed.onnx")
    >>> save(model, "copy.onnx")
    >>> Path("copy.onnx").read_bytes() == Path("deployed.onnx").read_bytes()
    True
    """
    path = Path(path)
    if path.suffix == ".onnx":
        from reparam_kit.onnx import write_back

        write_back(model, path)
        return
    if path.suffix not in (".pt", ".safetensors"):
        raise InputError(f"{path}: the suffix says what is written; choose .onnx, .pt or .safetensors")
    with atomic_path(path) as temporary:
        try:
            if path.suffix == ".safetensors":
                _write_tensors(model, temporary)
            else:
                torch.save(_archive(model), temporary)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"{path}: the model cannot be pickled: {first_line(error)}; write its state_dict: a .safetensors"
            ) from error
        except (RuntimeError, SafetensorError) as error:  # what a full disk comes to in these two writers
            raise InputError(f"{path} cannot be written, is the disk full? {first_line(error)}") from error


def _write_tensors(model: nn.Module, path: Path) -> None:
    """Write its state_dict, its blocks, and a checksum of both, which is filled in when the tensors are there."""
    recorded, blank = record(model), fingerprint(None)
    save_model(model, str(path), ({_RECORD: json.dumps(recorded)} if recorded else {}) | {_CHECKSUM: blank})
    checksum = fingerprint([recorded, load_file(path)])
    with path.open("r+b") as file:
        header = file.read(8 + int.from_bytes(file.read(8), "little"))
        file.seek(8)
        file.write(header.replace(blank.encode(), checksum.encode()))


def _archive(model: nn.Module) -> nn.Module | dict[str, Any]:
    provenance = getattr(model, "meta", {}).get("onnx")
    recorded = record(model)
    if provenance is None or not recorded:
        return model
    content = {
        "format": _FORMAT,
        "onnx": provenance.payload,
        "external": dict(provenance.external),
        "record": recorded,
        "state": dict(model.state_dict()),
    }
    return {**content, "sha256": fingerprint(content)}


def _from_archive(path: Path, unsafe: bool) -> nn.Module:
    try:
        content = _read_torch(path)
    except pickle.UnpicklingError:
        if not unsafe:
            raise UnsafeFileError(
                f"{path} holds pickled Python objects, and reading them runs code that the file carries. Save "
                "weights alone (.safetensors) and name the model as package.module:factory with them, or allow it with "
                "unsafe=True (--unsafe-load) if you trust where the file comes from"
            ) from None
        try:
            with _from_here():
                content = torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:  # unpickling runs what the file says, which may fail in any way
            raise InputError(
                f"{path} cannot be unpickled: {type(error).__name__}: {first_line(error)}"
            ) from error
    if isinstance(content, nn.Module):
        return content
    if _is_expanded(content):
        return _rebuild(path, content)
    raise InputError(
        f"{path} holds a {type(content).__name__}, not a model; for a state_dict, name the model as "
        "package.module:factory and give the file as its weights"
    )


def _is_expanded(content: object) -> bool:
    return isinstance(content, dict) and str(content.get("format")).startswith(_EXPANDED)


def _rebuild(path: Path, content: dict[str, Any]) -> nn.Module:
    from reparam_kit.onnx.importer import import_file
    from reparam_kit.onnx.weights import OnnxFile, parse_onnx

    if content["format"] != _FORMAT:
        raise InputError(f"{path} was written by another version of reparam-kit: expand the ONNX file again")
    with _of_one_expansion(path):
        tensors = _distinct(content["state"])
    _require_sound(path, content.pop("sha256", None), content)
    with _of_one_expansion(path):
        onnx, external = content["onnx"], content["external"]
        if not all(isinstance(part, bytes) for part in (onnx, *external.values())):
            raise TypeError("the ONNX model is not in bytes")
        file = OnnxFile(parse_onnx(onnx, "the ONNX model"), external)
        model: nn.Module = repeat(import_file(file, onnx), content["record"], tensors)
        model.load_state_dict(content["state"])
    return model


@contextmanager
def _of_one_expansion(path: Path) -> Iterator[None]:
    """Errors that parts of an expanded model lead to which are not what ``save`` wrote, as one that names the file."""
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


def _require_sound(path: Path, checksum: object, content: object) -> None:
    try:
        found = fingerprint(content)
    except (TypeError, ValueError, RuntimeError):  # what no file of ours holds, such as a sparse tensor
        found = "none"
    if found != checksum:
        raise InputError(
            f"{path} is damaged, or was changed by hand: its checksum is of another content; write it again"
        )


def _from_factory(name: str, weights: str | Path | None) -> nn.Module:
    module_name, _, function = name.partition(":")
    try:
        with _from_here():
            factory = getattr(import_module(module_name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{name}: cannot import the factory: {first_line(error)}") from error
    except Exception as error:  # the user's own code
        raise InputError(
            f"{name}: importing it fails: {type(error).__name__}: {first_line(error)}"
        ) from error
    try:
        model = factory()
    except Exception as error:  # it is the user's own code
        raise InputError(f"{name}() fails: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{name}() gave a {type(model).__name__}, not a torch.nn.Module")
    if weights is None:
        return model
    path = require_file(weights, "a state_dict, .safetensors or .pt")
    try:
        if path.suffix == ".safetensors":
            return _with_tensors(model, path)
        model.load_state_dict(_state_dict(path))
    except RuntimeError as error:
        raise InputError(f"{weights} does not fit {name}: {' '.join(str(error).split())[:300]}") from None
    return model


def _with_tensors(model: nn.Module, path: Path) -> nn.Module:
    """Return ``model``, expanded as the file says, if it does, and with its weights. RuntimeError if they do
    not fit.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        state, recorded = load_file(path), json.loads(metadata.get(_RECORD, "{}"))
        if metadata.keys() & {_RECORD, _CHECKSUM}:  # those of other makers have none
            _require_sound(path, metadata.get(_CHECKSUM), [recorded, state])
        if recorded:
            model = repeat(model, recorded, state.values())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RuntimeError(f"it is of an expanded model, and its layers are others: {error}") from None
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a safetensors file, or is truncated: {first_line(error)}") from None
    tensors = model.state_dict(keep_vars=True)
    # A tensor that the model has under several names is in the file under one of them.
    known = {id(tensor): state[name] for name, tensor in tensors.items() if name in state}
    others = {name: known[id(tensor)] for name, tensor in tensors.items() if id(tensor) in known}
    model.load_state_dict(others | state)
    return model


@contextmanager
def _from_here() -> Iterator[None]:
    """Imports find the user's own code where he calls from, as with python -m."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _state_dict(path: Path) -> dict[str, Any]:
    try:
        content = _read_torch(path)
    except pickle.UnpicklingError:
        raise UnsafeFileError(
            f"{path} holds pickled objects besides tensors and is not read; save model.state_dict() alone"
        ) from None
    if _is_expanded(content):
        raise InputError(f"{path} holds a whole expanded model: load it by its own name, not as weights")
    if isinstance(content, dict) and not any(isinstance(value, torch.Tensor) for value in content.values()):
        # A checkpoint: "state_dict", "model" or the like, beside epochs and the optimiser's state.
        states = [value for value in content.values() if _is_state_dict(value)]
        if len(states) != 1:
            raise InputError(
                f"{path} holds {', '.join(map(repr, content)) or 'nothing'}, {len(states)} of them state_dicts; "
                "save model.state_dict() alone"
            )
        content = states[0]
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state_dict")
    return content


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, dict) and bool(value) and all(isinstance(v, torch.Tensor) for v in value.values())
    )


def _read_torch(path: Path) -> Any:
    """Return what torch.save wrote, read without running code; UnpicklingError where that is not possible."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
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
