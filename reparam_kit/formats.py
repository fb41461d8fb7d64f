"""Reading and writing model files. Nothing that a file carries is run unless the caller says so."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import nn

from reparam_kit.archives import archive, is_expanded, read_state_dict, read_torch, rebuild
from reparam_kit.atomic import atomic_path
from reparam_kit.errors import InputError, UnsafeFileError, first_line
from reparam_kit.files import require_file
from reparam_kit.tensors import with_tensors, write_tensors

if TYPE_CHECKING:
    from reparam_kit.onnx.integers import IntegerCount


def load(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    unsafe: bool = False,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    float: str | Path | None = None,
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
        outputs: of a ``.onnx`` file, names of values within it at which the model is to end. What lies behind them, of
            whatever operators, stays in the file as it is. None: all that the file gives.
        float: of a ``.onnx`` file with weights in integers, the float ``.onnx`` that it was quantised from. The weights
            start where they were before they were rounded; the function is that of the integers all the same.

    Raises:
        InputError: nothing there, not such a file, or weights that do not fit.
        UnsafeFileError: the file would have to be unpickled.
        UnsupportedError: an ONNX operator without an importer; the message says where the model could end before it.

    >>> model = load("deployed.onnx")
    >>> model(torch.randn(4, 3, 16, 16)).shape
    torch.Size([4, 16])
    """
    name = str(model)
    path = Path(model)
    if (include or exclude) and path.suffix != ".onnx":
        raise InputError(f"include and exclude choose what is trained of a .onnx file; {name} is none")
    if outputs and path.suffix != ".onnx":
        raise InputError(f"outputs (--outputs) are values within a .onnx file; {name} is none")
    if float is not None and path.suffix != ".onnx":
        raise InputError(f"float (--float) is what a .onnx file was quantised from; {name} is none")
    if ":" in name and not path.exists():
        return _from_factory(name, weights)
    if weights is not None:
        raise InputError(f"weights go with package.module:factory; {name} is a file and brings its own")
    require_file(path, "a .onnx, a .pt, or package.module:factory")
    if path.suffix == ".onnx":
        from reparam_kit.onnx import import_onnx

        return import_onnx(path, include=include, exclude=exclude, outputs=outputs, float=float)
    return _from_archive(path, unsafe)


def save(model: nn.Module, path: str | Path) -> IntegerCount | None:
    """Write ``model`` in the format that the suffix of ``path`` names; an existing file is replaced at the end.

    ``.onnx``: the file that the model was loaded from, with its new weights and nothing else changed.
    ``.safetensors``: its state_dict and, of an expanded model, its blocks: ``load`` reads it with the model's factory.
    ``.pt``: an expanded ONNX model becomes an archive of tensors and text that ``load`` reads without running anything;
    any other module is pickled, which ``load`` reads only with ``unsafe``.

    Returns:
        Of a ``.onnx`` whose weights are quantised, how many integers are not as they were, and how many were clipped.

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
        from reparam_kit.onnx.integers import count_integers

        write_back(model, path)
        return count_integers(model)
    if path.suffix not in (".pt", ".safetensors"):
        raise InputError(f"{path}: the suffix says what is written; choose .onnx, .pt or .safetensors")
    with atomic_path(path) as temporary:
        try:
            if path.suffix == ".safetensors":
                write_tensors(model, temporary)
            else:
                torch.save(archive(model), temporary)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise InputError(
                f"{path}: the model cannot be pickled: {first_line(error)}; write its state_dict: a .safetensors"
            ) from error
        except (RuntimeError, SafetensorError) as error:  # which these two writers raise on a full disk
            raise InputError(f"{path} cannot be written, is the disk full? {first_line(error)}") from error
    return None


def _from_archive(path: Path, unsafe: bool) -> nn.Module:
    try:
        content = read_torch(path)
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
    if is_expanded(content):
        return rebuild(path, content)
    raise InputError(
        f"{path} holds a {type(content).__name__}, not a model; for a state_dict, name the model as "
        "package.module:factory and give the file as its weights"
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
            return with_tensors(model, path)
        model.load_state_dict(read_state_dict(path))
    except RuntimeError as error:
        raise InputError(f"{weights} does not fit {name}: {' '.join(str(error).split())[:300]}") from None
    return model


@contextmanager
def _from_here() -> Iterator[None]:
    """Let imports find the user's own code in the current folder, as ``python -m`` does."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")
