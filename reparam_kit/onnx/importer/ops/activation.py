"""Activations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.levels import picks
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import elementwise
from reparam_kit.onnx.importer.values import Constant, Value

_PLAIN: dict[str, Callable[[], nn.Module]] = {
    "HardSwish": nn.Hardswish,
    "Mish": nn.Mish,
    "Relu": nn.ReLU,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "Tanh": nn.Tanh,
}
_WITH_ALPHA: dict[str, Callable[[float], nn.Module]] = {
    "Celu": nn.CELU,
    "Elu": nn.ELU,
    "LeakyRelu": nn.LeakyReLU,
}
_SOFTMAX: dict[str, Callable[[int], nn.Module]] = {"Softmax": nn.Softmax, "LogSoftmax": nn.LogSoftmax}
_LARGEST = torch.finfo(torch.float32).max
_SELU = (1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


@operator(*_PLAIN)
def plain(op: Op) -> Value:
    """Return an activation without attributes."""
    return op.layer(_PLAIN[op.type](), op[0])


@operator(*_WITH_ALPHA)
def with_alpha(op: Op) -> Value:
    """Return an activation with ``alpha``."""
    return op.layer(_WITH_ALPHA[op.type](op.attr("alpha")), op[0])


@operator("Gelu")
def gelu(op: Op) -> Value:
    """Read ``approximate``: none or tanh."""
    return op.layer(nn.GELU(op.attr("approximate")), op[0])


@operator("Selu")
def selu(op: Op) -> Value:
    """Compute gamma * (x if x > 0 else alpha * (exp(x) - 1))."""
    alpha, gamma = op.attr("alpha"), op.attr("gamma")
    if np.allclose((alpha, gamma), _SELU, rtol=1e-7, atol=0):
        return op.layer(nn.SELU(), op[0])
    return op.call(torch.mul, op.layer(nn.ELU(alpha), op[0]), gamma)


@operator("HardSigmoid")
def hard_sigmoid(op: Op) -> Value:
    """Compute alpha * x + beta, between 0 and 1. torch's layer has alpha = 1/6, beta = 1/2; ONNX's default
    alpha is 1/5.
    """
    alpha, beta = op.attr("alpha"), op.attr("beta")
    if np.allclose((alpha, beta), (1 / 6, 0.5), rtol=1e-7, atol=0):
        return op.layer(nn.Hardsigmoid(), op[0])
    return op.call(scaled_hard_sigmoid, op[0], alpha, beta)


@operator("Clip")
def clip(op: Op) -> Value:
    """Take x, low, high. Before version 11 the bounds were attributes, and an open one was the largest float32."""
    x, low, high = op[0], op.number("min", 1), op.number("max", 2)
    if isinstance(x, Constant) and all(isinstance(bound, int | None) for bound in (low, high)):
        between = x.clipped(low, high)
        if between is not None:
            return between
    low = None if low == -_LARGEST else low
    high = None if high == _LARGEST else high
    if (low, high) == (0.0, 6.0):
        return op.layer(nn.ReLU6(), x)
    if isinstance(low, float) and isinstance(high, float) and low < high:
        return op.layer(nn.Hardtanh(low, high), x)
    return op.call(clamped, x, low, high)


@operator("PRelu")
def prelu(op: Op) -> Value:
    """Take x, slope: one, one a channel, or any shape that broadcasts to that of x."""
    slope, x_shape = op[1], op.shape(0)
    if isinstance(slope, Constant):
        count, shape = slope.tensor.numel(), tuple(slope.tensor.shape)
        per_channel = x_shape and ((1,) * (len(x_shape) - len(shape)) + shape)[1:2] == (count,)
        stored = slope.source is not None and slope.source.grid is not None
        if (count == 1 or per_channel) and not stored:
            return op.layer(nn.PReLU(count), op[0], weight=slope)
    return op.call(broadcast_prelu, op[0], op.parameter(1))


@operator("Softmax", "LogSoftmax", since=13)
def softmax(op: Op) -> Value:
    """Along ``axis``."""
    return op.layer(_SOFTMAX[op.type](op.attr("axis")), op[0])


@operator("Softmax", "LogSoftmax", until=12)
def flat_softmax(op: Op) -> Value:
    """Over all dimensions from ``axis`` on together."""
    layer, axis = _SOFTMAX[op.type](-1), op.attr("axis")
    shape = op.shape(0)
    if axis == -1 or (shape is not None and axis == len(shape) - 1):
        return op.layer(layer, op[0])
    flat = op.layer(layer, op.call(torch.flatten, op[0], axis))
    return op.call(shaped_like, flat, op[0])


def broadcast_prelu(x: Tensor, slope: Tensor) -> Tensor:
    """Apply PReLU with a slope of any shape that broadcasts to that of ``x``."""
    return torch.where(x < 0, slope * x, x)


def clamped(x: Tensor, low: Tensor | float | None, high: Tensor | float | None) -> Tensor:
    """Return ``x`` between two bounds, either of which may be missing; ``high`` where they cross."""
    x = x if low is None else torch.clamp(x, min=low)
    return x if high is None else torch.clamp(x, max=high)


def scaled_hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Return ``alpha * x + beta`` between 0 and 1."""
    return torch.clamp(alpha * x + beta, 0, 1)


def shaped_like(x: Tensor, other: Tensor) -> Tensor:
    """Return ``x`` in the shape of ``other``."""
    return x.reshape(other.shape)


rule(elementwise, broadcast_prelu, clamped, scaled_hard_sigmoid)
picks(clamped)
