"""The importers of ONNX's own operators, by family. Importing a file registers what is in it."""

from __future__ import annotations

from reparam_kit.onnx.importer.ops import (
    activation,
    blockwise,
    constant,
    conv,
    elementwise,
    fused,
    indexing,
    integer,
    integer_pointwise,
    linear,
    ml,
    norm,
    pad,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
    shape,
)
