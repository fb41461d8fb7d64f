"""What skl2onnx puts before and after a network, from ``ai.onnx.ml``: scaling, and the choice of a class."""

from __future__ import annotations

import torch
from torch import Tensor

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import elementwise
from reparam_kit.onnx.importer.values import Value

_DOMAIN = "ai.onnx.ml"


@operator("Scaler", domain=_DOMAIN)
def scaler(op: Op) -> Value:
    """Take x [N, features]; ``offset`` and ``scale`` hold a number for each feature, or one for all."""
    offset, scale = (op.stored(torch.tensor(op.attr(name))) for name in ("offset", "scale"))
    return op.call(scaled, op[0], offset, scale)


@operator("ArrayFeatureExtractor", domain=_DOMAIN)
def array_feature_extractor(op: Op) -> Value:
    """Take x, and indices into its last dimension; a vector counts as a matrix of one row."""
    return op.call(features_at, op[0], op[1])


@operator("Binarizer", domain=_DOMAIN)
def binarizer(op: Op) -> Value:
    """Return 1 where x is above ``threshold``, else 0."""
    return op.call(is_above, op[0], op.attr("threshold"))


@operator("ZipMap", domain=_DOMAIN)
def zip_map(op: Op) -> Value:
    """Makes a dictionary of each row."""
    raise UnsupportedError(
        'it makes dictionaries, which are no tensors; convert the model with options={"zipmap": False}'
    )


def scaled(x: Tensor, offset: Tensor, scale: Tensor) -> Tensor:
    """Return ``(x - offset) * scale`` in float32."""
    return (x.float() - offset) * scale


def features_at(x: Tensor, indices: Tensor) -> Tensor:
    """Return ``x`` [..., features] at ``indices``, whatever the shape of these."""
    rows = x if x.dim() > 1 else x.unsqueeze(0)
    return rows.index_select(-1, indices.reshape(-1))


def is_above(x: Tensor, threshold: float) -> Tensor:
    """Return 1 where ``x`` is above ``threshold``, else 0, in the dtype of ``x``."""
    return (x > threshold).to(x.dtype)


rule(elementwise, scaled, is_above)
