"""Normalisation layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.values import Value

_BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


@operator("BatchNormalization", since=7)
def batch_norm(op: Op) -> Value:
    """x, scale, bias, mean, variance [C]. ``momentum`` is the share of the old statistics, in torch of the new."""
    if op.rank(0) not in _BATCH:
        raise UnsupportedError(f"a batch norm of {op.rank(0)} dimensions is not supported")
    if op.flag("training_mode"):
        raise UnsupportedError("training_mode = 1 is not supported; export the model in eval mode")
    if op.attr("spatial") == 0:
        raise UnsupportedError("spatial = 0 is not supported")
    weights = op.weights(weight=1, bias=2, running_mean=3, running_var=4)
    layer = _BATCH[op.rank(0)](weights["weight"].tensor.shape[0], op.attr("epsilon"), 1 - op.attr("momentum"))
    return op.layer(layer, op[0], **weights)


@operator("InstanceNormalization", since=6)
def instance_norm(op: Op) -> Value:
    """x, scale, bias [C]."""
    if op.rank(0) not in _INSTANCE:
        raise UnsupportedError(f"an instance norm of {op.rank(0)} dimensions is not supported")
    weights = op.weights(weight=1, bias=2)
    layer = _INSTANCE[op.rank(0)](weights["weight"].tensor.shape[0], op.attr("epsilon"), affine=True)
    return op.layer(layer, op[0], **weights)


@operator("LayerNormalization")
def layer_norm(op: Op) -> Value:
    """x, scale, bias. Both have the shape of what is normalised: the dimensions of x from ``axis`` on."""
    axis, rank, weights = op.attr("axis"), op.rank(0), op.weights(weight=1, bias=2)
    shape = tuple(weights["weight"].tensor.shape)
    if len(shape) != rank - axis % rank:
        raise UnsupportedError(
            f"a scale of shape {list(shape)}, not that of the dimensions from {axis} on, is not supported"
        )
    if op.attr("stash_type") != 1:
        raise UnsupportedError("stash_type other than 1 (float32) is not supported")
    return op.layer(nn.LayerNorm(shape, op.attr("epsilon"), bias="bias" in weights), op[0], **weights)


@operator("GroupNormalization", since=21)
def group_norm(op: Op) -> Value:
    """x, scale, bias [C]. The first definition, with one scale a group, was withdrawn."""
    weights = op.weights(weight=1, bias=2)
    if op.attr("stash_type") != 1:
        raise UnsupportedError("stash_type other than 1 (float32) is not supported")
    return op.layer(
        nn.GroupNorm(op.attr("num_groups"), weights["weight"].tensor.shape[0], op.attr("epsilon")),
        op[0],
        **weights,
    )


@operator("LpNormalization")
def lp_normalize(op: Op) -> Value:
    """x over its norm along ``axis``; 0 where that is 0."""
    return op.call(over_norm, op[0], op.attr("p"), op.attr("axis"))


@operator("LRN")
def local_response_norm(op: Op) -> Value:
    """x over (bias + alpha * mean of the squares of ``size`` neighbouring channels) ** beta."""
    if op.attr("size") % 2 == 0:
        raise UnsupportedError("an even size is not supported")
    layer = nn.LocalResponseNorm(op.attr("size"), op.attr("alpha"), op.attr("beta"), op.attr("bias"))
    return op.layer(layer, op[0])


def over_norm(x: Tensor, p: int, axis: int) -> Tensor:
    """``x`` over its p-norm along ``axis``; 0 where that is 0."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, 1, norm)
