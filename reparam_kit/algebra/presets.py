"""The published blocks, each a row: a name, its expression, and where it comes from.

``conv(k)`` stands for the deployed kernel once; what else a row holds is added for training.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeGuard

from reparam_kit.algebra.expression import Block, Expression
from reparam_kit.algebra.parser import parse
from reparam_kit.errors import ExpressionError, InputError
from reparam_kit.registry import Registry


class Preset(NamedTuple):
    """A published block, with the norm of its branches where it depends on one."""

    expression: str
    source: str
    norm: str = "scale"


_PUBLISHED = {
    "acb": Preset("conv(k) + conv(1, k) + conv(k, 1)", "ACNet, ICCV 2019"),
    "repvgg": Preset("conv(k) + conv(1) + identity", "RepVGG, CVPR 2021"),
    "dbb": Preset(
        "conv(k) + conv(1) + conv(1) >> conv(k) + conv(1) >> avg(k)", "Diverse Branch Block, CVPR 2021"
    ),
    "mobileone": Preset("4 * conv(k) + conv(1) + identity", "MobileOne, CVPR 2023"),
    "ecb": Preset(
        "conv(k) + conv(1, width=2) >> conv(k)"
        " + conv(1) >> sobel_x + conv(1) >> sobel_y + conv(1) >> laplacian",
        "ECBSR, ACM MM 2021",
    ),
    "expandnet": Preset("conv(1, width=4) >> conv(k, width=4) >> conv(1)", "ExpandNets, NeurIPS 2020"),
    "doconv": Preset("conv(k) + depthwise(k, width=9) >> conv(1)", "DO-Conv, TIP 2022"),
    "dilated": Preset("conv(k) + dilated(3, rate=2) + dilated(3, rate=3)", "UniRepLKNet, CVPR 2024"),
    "orepa": Preset(
        "conv(k) + conv(1) >> avg(k) + conv(1) >> frequency(k) + conv(1) >> conv(k)"
        " + depthwise(k, width=8) >> conv(1)",
        "OREPA, CVPR 2022",
    ),
    # Its branches have no norm, so that the folded kernel stays within the range of the deployed one: what
    # normalises is the BatchNorm behind the sum.
    "qarepvgg": Preset("conv(k) + conv(1) + identity", "QARepVGG, AAAI 2024", "none"),
}


def _given(name: str, found: Any) -> Preset:
    return found if isinstance(found, Preset) else Preset(str(found), "another package")


PRESETS: Registry[Preset] = Registry("block", __name__, "reparam_kit.presets", _given)
"""Every preset by its name."""
for _name, _preset in _PUBLISHED.items():
    PRESETS.add(_name, _preset)


def norm_of(expression: str | Expression) -> str:
    """Give the norm that the branches of a block have where none is asked for.

    >>> norm_of("dbb"), norm_of("qarepvgg"), norm_of("conv(k) + conv(1)")
    ('scale', 'none', 'scale')
    """
    return PRESETS[expression].norm if _is_preset(expression) and expression in PRESETS else "scale"


def block(expression: str | Expression) -> Block:
    """Give the block that a preset name, the text of an expression, or an expression stands for.

    Raises ExpressionError for an unknown name, with the nearest known one, and for text that does not parse.

    >>> print(block("repvgg"))
    conv(k) + conv(1) + identity
    """
    if isinstance(expression, Expression):
        return Block(expression.terms)
    if not _is_preset(expression):
        return parse(expression)
    try:
        return parse(PRESETS[expression].expression)
    except InputError as error:
        raise ExpressionError(f"{error} (or write an expression, such as 'conv(k) + conv(1)')") from None


def _is_preset(expression: str | Expression) -> TypeGuard[str]:
    """Return whether a block is named, rather than written: a factor alone, such as ``identity``, is written."""
    return isinstance(expression, str) and expression.isidentifier() and expression != "identity"
