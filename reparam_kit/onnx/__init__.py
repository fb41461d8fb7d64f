"""Reading an ONNX file into trainable modules, writing its weights back, and comparing two files.

The importer needs torch and the rest does not: ``reparam-kit diff`` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reparam_kit.onnx.diff import diff
from reparam_kit.onnx.write_back import write_back

if TYPE_CHECKING:
    from reparam_kit.onnx.importer import import_onnx

__all__ = ["diff", "import_onnx", "write_back"]


def __getattr__(name: str) -> Any:
    if name != "import_onnx":
        raise AttributeError(f"module 'reparam_kit.onnx' has no attribute {name!r}")
    from reparam_kit.onnx.importer import import_onnx

    return import_onnx
