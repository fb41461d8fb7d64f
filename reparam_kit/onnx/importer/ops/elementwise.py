"""Arithmetic, comparison and logic, element by element, with broadcasting as in numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from torch import Tensor, fx

from reparam_kit.onnx.importer.batch import rule
from reparam_kit.onnx.importer.levels import picks, straight_through
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.rules import elementwise
from reparam_kit.onnx.importer.values import Constant, Value
from reparam_kit.onnx.provenance import INVERSES


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a / b``; integers are rounded towards zero."""
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def power(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a ** b`` in the dtype of ``a``."""
    return torch.pow(a, b).to(a.dtype)


def rounded_down(x: Tensor) -> Tensor:
    """Return the whole number below, with the gradient of ``x``."""
    return straight_through(torch.floor(x.detach()), None, x)


def rounded_up(x: Tensor) -> Tensor:
    """Return the whole number above, with the gradient of ``x``."""
    return straight_through(torch.ceil(x.detach()), None, x)


def rounded_to_even(x: Tensor) -> Tensor:
    """Return the nearest whole number, with the gradient of ``x``."""
    return straight_through(torch.round(x.detach()), None, x)


# Of these the gradient is zero, unless they quantise.
_STEPS = {"Ceil": rounded_up, "Floor": rounded_down, "Round": rounded_to_even}
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Log": torch.log,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Round": torch.round,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Sqrt": torch.sqrt,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Div": divide,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Pow": power,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Mean": torch.add,
    "Min": torch.minimum,
    "Sum": torch.add,
}


@operator(*_UNARY)
def unary(op: Op) -> Value:
    """Take one operand. The negative of a weight is one."""
    x = op[0]
    if op.type == "Neg" and isinstance(x, Constant) and x.source is not None and x.tensor.is_floating_point():
        taken = x.combined("Mul", -np.ones((), x.tensor.numpy().dtype))
        if taken is not None:
            return op.made(taken)
    quantises = op.type in _STEPS and isinstance(x, fx.Node) and op.is_clipped()
    return op.call((_STEPS if quantises else _UNARY)[op.type], x)


@operator(*_BINARY)
def binary(op: Op) -> Value:
    """Take two operands. A weight stays one where a constant can be taken from it again."""
    a, b = op[0], op[1]
    if op.type in INVERSES and isinstance(a, Constant) and isinstance(b, Constant):
        for weight, constant in [(a, b), (b, a)] if op.type in ("Add", "Mul") else [(a, b)]:
            if _has_way_back(op.type, weight, constant):
                taken = weight.combined(op.type, op.read(constant).numpy())
                return op.call(_BINARY[op.type], a, b) if taken is None else op.made(taken)
    return op.call(_BINARY[op.type], a, b)


def _has_way_back(operator: str, weight: Constant, constant: Constant) -> bool:
    factor, (x, y) = operator in ("Div", "Mul"), (weight.tensor, constant.tensor)
    if weight.source is None or not x.is_floating_point():
        return False
    if x.shape != torch.broadcast_shapes(x.shape, y.shape):  # type: ignore[no-untyped-call]
        return False
    if factor and x.shape == y.shape and constant.source is not None and not x.all():
        return False  # a mask, which training would spoil
    return bool(y.isfinite().all() and (y.all() or not factor))


@operator(*_VARIADIC)
def variadic(op: Op) -> Value:
    """Take one operand or more."""
    total = reduce(lambda a, b: op.call(_VARIADIC[op.type], a, b), op)
    return op.call(torch.div, total, len(op)) if op.type == "Mean" else total


@operator("Mod")
def mod(op: Op) -> Value:
    """Take the remainder, which has the sign of the divisor, with ``fmod`` that of the dividend."""
    return op.call(torch.fmod if op.flag("fmod") else torch.remainder, op[0], op[1])


@operator("Where")
def where(op: Op) -> Value:
    """Take condition, a, b."""
    return op.call(torch.where, op[0], op[1], op[2])


rule(elementwise, *_STEPS.values(), *_UNARY.values(), *_BINARY.values(), *_VARIADIC.values())
rule(elementwise, torch.div, torch.fmod, torch.remainder, torch.where)
picks(torch.maximum, torch.minimum, torch.where)
