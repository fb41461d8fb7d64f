"""The algebra of linear branches: factors, expressions, presets, and exact composition of kernels."""

from reparam_kit.algebra.branch import NORMS, Branch, Chain, Norm, affine, describe, fit
from reparam_kit.algebra.expanded import Expanded
from reparam_kit.algebra.expression import Block, Expression, Term
from reparam_kit.algebra.factors import Factor
from reparam_kit.algebra.kernel import Geometry, Kernel
from reparam_kit.algebra.parser import parse
from reparam_kit.algebra.presets import PRESETS, block

__all__ = [
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
    "Norm",
    "Term",
    "affine",
    "block",
    "describe",
    "fit",
    "parse",
]
