"""Inputs that a model is run on: what its forward is given, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

Inputs = Tensor | Sequence[Tensor]
"""A tensor, which is the only argument, or all arguments in a list or tuple."""


def arguments(inputs: Inputs) -> tuple[Any, ...]:
    """Give the positional arguments of a model's forward.

    >>> len(arguments([torch.ones(1), torch.ones(2)])), len(arguments(torch.ones(2)))
    (2, 1)
    """
    return tuple(inputs) if isinstance(inputs, Sequence) else (inputs,)
