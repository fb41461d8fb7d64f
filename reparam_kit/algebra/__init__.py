"""The algebra of linear branches: factors, expressions, presets, and exact composition of kernels."""

from reparam_kit.algebra.branch import NORMS, Branch, Chain, describe, fit
from reparam_kit.algebra.computed import METADATA, computed, is_metadata
from reparam_kit.algebra.expanded import Expanded
from reparam_kit.algebra.expression import FACTORS, Block, Expression, Factor, Term
from reparam_kit.algebra.foldable import Foldable, overwrite
from reparam_kit.algebra.kernel import Geometry, Kernel
from reparam_kit.algebra.layers import (
    LAYERS,
    Layer,
    by_channel,
    each,
    geometry,
    to_kernel,
    to_weight,
    weight_shape,
)
from reparam_kit.algebra.norms import affine
from reparam_kit.algebra.parser import parse
from reparam_kit.algebra.presets import PRESETS, block, norm_of
from reparam_kit.algebra.stock import has_hooks, has_own_forward, not_affine, torch_class

__all__ = [
    "FACTORS",
    "LAYERS",
    "METADATA",
    "NORMS",
    "PRESETS",
    "Block",
    "Branch",
    "Chain",
    "Expanded",
    "Expression",
    "Factor",
    "Foldable",
    "Geometry",
    "Kernel",
    "Layer",
    "Term",
    "affine",
    "block",
    "by_channel",
    "computed",
    "describe",
    "each",
    "fit",
    "geometry",
    "has_hooks",
    "has_own_forward",
    "is_metadata",
    "norm_of",
    "not_affine",
    "overwrite",
    "parse",
    "to_kernel",
    "to_weight",
    "torch_class",
    "weight_shape",
]
