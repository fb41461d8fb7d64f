"""Reading an ONNX inference graph as a ``torch.fx.GraphModule`` of ordinary, trainable modules.

- ``load``: :func:`import_onnx`, node after node
- ``ops``: one function per operator, in files by family; :func:`operator` registers them, also those of a user
- ``op``: the node as such a function sees it
- ``builder``: the graph, the layers and their tensors, and where these came from
- ``batch``, ``rules``: freeing a batch that the file fixes, so that no image's result depends on another
- ``levels``, ``rounded``: integers with a gradient, and weights that are rounded in each pass as they will be written
- ``example``: the shape and type of every value, seen on an example input
- ``backend``: the importer as a ``onnx.backend.base.Backend``
"""

from __future__ import annotations

import reparam_kit.onnx.importer.ops
from reparam_kit.onnx.importer.load import import_file, import_onnx
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.values import Constant, Value

__all__ = ["Constant", "Op", "Value", "import_file", "import_onnx", "operator"]
