"""Normalisations: layers where scale and bias are known, else calls."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.example import example
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import along, first, last
from reparam_kit.onnx.importer.values import Value

_BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


@operator("BatchNormalization", since=7)
def batch_norm(op: Op) -> Value:
    """Take x, scale, bias, mean, variance [C]. ``momentum`` is the share of the old statistics, in torch of the new."""
    if op.rank(0) not in _BATCH:
        raise UnsupportedError(f"a batch norm of {op.rank(0)} dimensions is not supported")
    if op.flag("training_mode"):
        raise UnsupportedError("training_mode = 1 is not supported; export the model in eval mode")
    if op.attr("spatial") == 0:
        raise UnsupportedError("spatial = 0 is not supported")
    eps, momentum = op.attr("epsilon"), 1 - op.attr("momentum")
    weights = op.weights(weight=1, bias=2, running_mean=3, running_var=4)
    if weights is None:
        statistics, affine = (op[3], op[4]), (op.parameter(1), op.parameter(2))
        return op.call(F.batch_norm, op[0], *statistics, *affine, False, momentum, eps)
    layer = _BATCH[op.rank(0)](weights["weight"].tensor.shape[0], eps, momentum)
    return op.layer(layer, op[0], **weights)


@operator("InstanceNormalization", since=6)
def instance_norm(op: Op) -> Value:
    """Take x, scale, bias [C]."""
    if op.rank(0) not in _INSTANCE:
        raise UnsupportedError(f"an instance norm of {op.rank(0)} dimensions is not supported")
    eps, weights = op.attr("epsilon"), op.weights(weight=1, bias=2)
    if weights is None:
        affine = op.parameter(1), op.parameter(2)
        return op.call(F.instance_norm, op[0], None, None, *affine, True, 0.0, eps)
    layer = _INSTANCE[op.rank(0)](weights["weight"].tensor.shape[0], eps, affine=True)
    return op.layer(layer, op[0], **weights)


@operator("LayerNormalization")
def layer_norm(op: Op) -> tuple[Value, ...]:
    """Take x, scale, bias. Both have the shape of what is normalised: the dimensions of x from ``axis`` on.

    Further outputs are the mean and one over the standard deviation of these.
    """
    axis, rank, eps, shape = op.attr("axis"), op.rank(0), op.attr("epsilon"), op.shape(1) or ()
    if len(shape) != rank - axis % rank:
        raise UnsupportedError(
            f"a scale of shape {list(shape)}, not that of the dimensions from {axis} on, is not supported"
        )
    _check_stash_type(op)
    weights = op.weights(weight=1, bias=2)
    if weights is None:
        y = op.call(normalized, op[0], op.parameter(1), op.parameter(2), eps)
    else:
        y = op.layer(nn.LayerNorm(shape, eps, bias="bias" in weights), op[0], **weights)
    axes = tuple(range(-len(shape), 0))
    return y, op.call(torch.mean, op[0], axes, True), op.call(inverse_deviation, op[0], axes, eps)


@operator("RMSNormalization")
def rms_norm(op: Op) -> Value:
    """Take x, scale, which broadcasts to what is normalised: the dimensions of x from ``axis`` on."""
    axis, rank = op.attr("axis"), op.rank(0)
    _check_stash_type(op)
    axes = tuple(range(axis % rank - rank, 0))
    return op.call(over_root_mean_square, op[0], axes, op.parameter(1), op.attr("epsilon"))


@operator("GroupNormalization", since=21)
def group_norm(op: Op) -> Value:
    """Take x, scale, bias [C]."""
    _check_stash_type(op)
    groups, eps, weights = op.attr("num_groups"), op.attr("epsilon"), op.weights(weight=1, bias=2)
    if weights is None:
        return op.call(F.group_norm, op[0], groups, op.parameter(1), op.parameter(2), eps)
    return op.layer(nn.GroupNorm(groups, weights["weight"].tensor.shape[0], eps), op[0], **weights)


@operator("GroupNormalization", since=18, until=20)
def group_norm_by_group(op: Op) -> Value:
    """Take x, scale, bias [groups]: the first definition, since withdrawn, has one of each for a group."""
    affine = op.parameter(1), op.parameter(2)
    return op.call(normalized_by_group, op[0], op.attr("num_groups"), *affine, op.attr("epsilon"))


def _check_stash_type(op: Op) -> None:
    if op.attr("stash_type") != 1:
        raise UnsupportedError("stash_type other than 1 (float32) is not supported")


@operator("LpNormalization")
def lp_normalize(op: Op) -> Value:
    """Return x over its norm along ``axis``; 0 where that is 0."""
    return op.call(over_norm, op[0], op.attr("p"), op.attr("axis"))


@operator("LRN")
def local_response_norm(op: Op) -> Value:
    """Return x over (bias + alpha * mean of the squares of ``size`` neighbouring channels) ** beta."""
    if op.attr("size") % 2 == 0:
        raise UnsupportedError("an even size is not supported")
    layer = nn.LocalResponseNorm(op.attr("size"), op.attr("alpha"), op.attr("beta"), op.attr("bias"))
    return op.layer(layer, op[0])


def over_norm(x: Tensor, p: int, axis: int) -> Tensor:
    """Return ``x`` over its p-norm along ``axis``; 0 where that is 0."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, 1, norm)


def normalized(x: Tensor, scale: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm of ``x`` over as many dimensions as ``scale`` has."""
    return F.layer_norm(x, scale.shape, scale, bias, eps)


def over_root_mean_square(x: Tensor, axes: tuple[int, ...], scale: Tensor, eps: float) -> Tensor:
    """Return ``x`` over the root of its mean square over ``axes``, times ``scale``."""
    return x * torch.rsqrt(x.square().mean(axes, keepdim=True) + eps) * scale


def inverse_deviation(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """Return one over the standard deviation of ``x`` over ``axes``."""
    return torch.rsqrt(x.var(axes, correction=0, keepdim=True) + eps)


def normalized_by_group(x: Tensor, groups: int, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Group norm of ``x`` [N, C, ...], with a scale and a bias for each group."""
    channels = x.shape[1] // groups
    return F.group_norm(x, groups, scale.repeat_interleave(channels), bias.repeat_interleave(channels), eps)


rule(first, F.batch_norm, F.instance_norm, F.group_norm, normalized_by_group)
rule(last(lambda scale, *_: example(scale).dim()), normalized)
rule(along(1), inverse_deviation, over_root_mean_square, torch.mean)
rule(along(2), over_norm)
