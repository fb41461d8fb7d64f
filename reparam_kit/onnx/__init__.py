"""Reading an ONNX file into trainable modules, writing its weights back, and comparing two files."""

from __future__ import annotations

from reparam_kit.onnx.diff import diff
from reparam_kit.onnx.importer import import_onnx
from reparam_kit.onnx.write_back import write_back

__all__ = ["diff", "import_onnx", "write_back"]
