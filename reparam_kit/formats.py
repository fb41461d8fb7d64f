"""Reading and writing model files. Nothing that a file carries is run unless the caller says so."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import nn

from reparam_kit.archives import archive, is_expanded, read_torch, read_weights, rebuild
from reparam_kit.atomic import atomic_path
from reparam_kit.errors import InputError, UnsafeFileError, first_line
from reparam_kit.factories import from_here, is_factory, make
from reparam_kit.files import require_file
from reparam_kit.states import fill, unwrapped
from reparam_kit.tensors import with_tensors, write_tensors

if TYPE_CHECKING:
    from reparam_kit.onnx.integers import IntegerCount
    from reparam_kit.onnx.scales import Scales


def load(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    unsafe: bool = False,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    float: str | Path | None = None,
    scales: Scales = "kept",
) -> nn.Module:
    """Return the model that ``model`` names.

    Args:
        model: a ``.onnx`` file; a file written by ``save`` for an expanded ONNX model; a ``.pt`` that holds a pickled
            ``nn.Module`` (only with ``unsafe``); or ``package.module:factory``, a function that is imported and called,
            with arguments ``package.module:factory(depth=18, widths=[1, 2])``, which are literals: nothing is
            evaluated.
        weights: for a factory or a ``.onnx``, a state_dict: ``.safetensors``, or a ``.pt`` or ``.pth`` read with
            ``weights_only=True``. In a checkpoint the one that has the model's names and shapes is taken, without
            what ``DataParallel`` and ``torch.compile`` put before names, and that is logged. A ``.safetensors`` that
            ``save`` wrote for an expanded model says so: the model is then expanded likewise.
        unsafe: allow unpickling, which runs whatever code the file carries.
        include: of a ``.onnx`` file, patterns (as in fnmatch) of the weights to train, by the names of their layers,
            their own in the model, or those in the file; the others get ``requires_grad=False``. None: all.
        exclude: patterns of those not to train.
        outputs: of a ``.onnx`` file, names of values within it at which the model is to end. What lies behind them, of
            whatever operators, stays in the file as it is. None: all that the file gives.
        float: of a ``.onnx`` file with weights in integers, the float ``.onnx`` that it was quantised from. The weights
            start where they were before they were rounded; the function is that of the integers all the same.
        scales: of a ``.onnx`` file with weights in integers, "weights" to give a weight a wider scale where training
            takes it beyond the last level, if the file has a scale for it alone. "kept": such a weight is clipped.

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
    if scales != "kept" and path.suffix != ".onnx":
        raise InputError(f"scales (--scales) are those of a quantised .onnx file; {name} is none")
    if is_factory(name):
        made = make(name)
        return made if weights is None else _with_weights(made, weights, name)
    require_file(path, "a .onnx, a .pt, or package.module:factory")
    if path.suffix == ".onnx":
        from reparam_kit.onnx import import_onnx

        imported = import_onnx(
            path, include=include, exclude=exclude, outputs=outputs, float=float, scales=scales
        )
        return imported if weights is None else _with_weights(imported, weights, name)
    if weights is not None:
        raise InputError(
            f"weights (--weights) go with package.module:factory or a .onnx; {name} brings its own"
        )
    return _from_archive(path, unsafe)


def save(model: nn.Module, path: str | Path) -> IntegerCount | None:
    """Write ``model`` in the format that the suffix of ``path`` names; an existing file is replaced at the end.

    ``.onnx``: the file that the model was loaded from, with its new weights and nothing else changed.
    ``.safetensors``: its state_dict and, of an expanded model, its blocks: ``load`` reads it as the weights of the
    model's ``.onnx`` or factory. It keeps the metadata of a ``.safetensors`` that the weights came from.
    ``.pt``, ``.pth``: an expanded ONNX model becomes an archive of tensors and text that ``load`` reads without running
    anything; any other module is pickled, which ``load`` reads only with ``unsafe``.
    Of ``DataParallel``, ``DistributedDataParallel`` and what ``torch.compile`` gives, the module within is written.

    Returns:
        Of a ``.onnx`` whose weights are quantised, how many integers are not as they were, and how many were clipped.

    Raises:
        InputError: another suffix; or ``.onnx`` for a model that did not come from one, or is still expanded.

    >>> model = load("deployed.onnx")
    >>> save(model, "copy.onnx")
    >>> Path("copy.onnx").read_bytes() == Path("deployed.onnx").read_bytes()
    True
    """
    path, model = Path(path), unwrapped(model)
    if path.suffix == ".onnx":
        from reparam_kit.onnx import write_back
        from reparam_kit.onnx.integers import count_integers

        write_back(model, path)
        return count_integers(model)
    if path.suffix not in (".pt", ".pth", ".safetensors"):
        raise InputError(f"{path}: the suffix says what is written; choose .onnx, .pt, .pth or .safetensors")
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
            with from_here():
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


def _with_weights(model: nn.Module, weights: str | Path, name: str) -> nn.Module:
    path = require_file(weights, "a state_dict, .safetensors, .pt or .pth")
    if path.suffix == ".safetensors":
        return with_tensors(model, path, name)
    fill(model, read_weights(path), path, name)
    return model
