"""Better weights for a deployed CNN, without changing anything but its weights.

Names are imported on first use, so that ``import reparam_kit`` and ``reparam-kit --help`` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reparam_kit.errors import (
    ExpressionError,
    InputError,
    NothingToDoError,
    ReparamError,
    UnsafeFileError,
    UnsupportedError,
    VerificationError,
    first_line,
    printable,
    suggestion,
)

__version__ = "0.1.0"

_HOME = {
    "atomic_file": "reparam_kit.atomic",
    "bake": "reparam_kit.baking",
    "require_file": "reparam_kit.files",
    "evaluating": "reparam_kit.modes",
    "inspect": "reparam_kit.sites",
    "restore_bn": "reparam_kit.restoration",
    "expand": "reparam_kit.surgery",
    "fold": "reparam_kit.surgery",
    "verify": "reparam_kit.verification",
    "diff": "reparam_kit.onnx.diff",
    "export_onnx": "reparam_kit.onnx.export",
    "load": "reparam_kit.formats",
    "save": "reparam_kit.formats",
}

__all__ = [
    "ExpressionError",
    "InputError",
    "NothingToDoError",
    "ReparamError",
    "UnsafeFileError",
    "UnsupportedError",
    "VerificationError",
    "__version__",
    "atomic_file",
    "bake",
    "diff",
    "evaluating",
    "expand",
    "export_onnx",
    "first_line",
    "fold",
    "inspect",
    "load",
    "printable",
    "require_file",
    "restore_bn",
    "save",
    "suggestion",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'reparam_kit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from reparam_kit.atomic import atomic_file
    from reparam_kit.baking import bake
    from reparam_kit.files import require_file
    from reparam_kit.formats import load, save
    from reparam_kit.modes import evaluating
    from reparam_kit.onnx.diff import diff
    from reparam_kit.onnx.export import export_onnx
    from reparam_kit.restoration import restore_bn
    from reparam_kit.sites import inspect
    from reparam_kit.surgery import expand, fold
    from reparam_kit.verification import verify
