"""Reading an ONNX file into trainable modules, writing its weights back, and comparing two files.

The importer needs torch and the rest does not: ``reparam-kit diff`` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparam_kit.lazy import lazily
from reparam_kit.onnx.diff import diff as diff
from reparam_kit.onnx.write_back import write_back as write_back

if TYPE_CHECKING:
    from reparam_kit.onnx.importer import import_onnx as import_onnx
else:
    __getattr__, __dir__, __all__ = lazily(__name__)
