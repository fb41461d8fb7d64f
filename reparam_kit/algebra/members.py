"""The layers of a model whose kernels are composed together, and what they are composed of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from reparam_kit.algebra.composition import Composed, Form, Parts

_MOST = 2**19
"""Numbers in the kernels that are composed together: larger ones hide a launch, and would be copied for nothing."""

State = tuple[tuple[int, int, bool, int], ...]
"""What tells one value of a layer's tensors from another, as far as torch can tell; its version comes last."""


def state_of(tensors: Sequence[Tensor]) -> State:
    """Return the present state of tensors."""
    return tuple((id(t), t.data_ptr(), t.requires_grad, t._version) for t in tensors)


class Member(NamedTuple):
    """A layer as it was when a pass first looked at it."""

    layer: Composed
    parts: Parts
    tensors: list[Tensor]
    state: State


def groups_of(model: nn.Module) -> list[list[Member]]:
    """Return the layers that are composed together: of one form, and not too much at once."""
    by_form: dict[Form, list[Member]] = {}
    for layer in model.modules():
        if isinstance(layer, Composed) and are_known(tensors := layer.owned()) and (parts := layer.parts()):
            by_form.setdefault(parts.form, []).append(Member(layer, parts, tensors, state_of(tensors)))
    groups = []
    for form, members in by_form.items():
        together = max(1, _MOST // form.layouts[0].shape.numel())
        groups += [members[start : start + together] for start in range(0, len(members), together)]
    return groups


def are_known(tensors: Sequence[Tensor]) -> bool:
    """Return whether tensors are such as torch tells all of; others are known to their own operators alone."""
    return all(type(tensor) in (nn.Parameter, Tensor) and not tensor.is_inference() for tensor in tensors)
