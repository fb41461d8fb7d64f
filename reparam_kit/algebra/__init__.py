"""The algebra of linear branches: factors, expressions, presets, and exact composition of kernels."""

from reparam_kit.algebra.branch import NORMS, Branch, Chain, Norm, affine, describe, fit
from reparam_kit.algebra.expanded import Expanded
from reparam_kit.algebra.expression import Block, Expression, Term
from reparam_kit.algebra.factors import Factor
from reparam_kit.algebra.kernel import Geometry, Kernel
from reparam_kit.algebra.layers import (
    LAYERS,
    Layer,
    by_channel,
    geometry,
    has_own_forward,
    to_kernel,
    to_weight,
)
from reparam_kit.algebra.parser import parse
from reparam_kit.algebra.presets import PRESETS, block, norm_of

__all__ = [
    "LAYERS",
    "NORMS",
    "PRESETS",
    "Block",
    "Branch",
    "Chain",
    "Expanded",
    "Expression",
    "Factor",
    "Geometry",
    "Kernel",
    "Layer",
    "Norm",
    "Term",
    "affine",
    "block",
    "by_channel",
    "describe",
    "fit",
    "geometry",
    "has_own_forward",
    "norm_of",
    "parse",
    "to_kernel",
    "to_weight",
]
