"""Inputs are a tensor, or a list or tuple of arguments: wherever a model is run on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparam_kit as rk


class Two(nn.Module):
    """A net of two inputs, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 4, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.a(x) + self.b(y)
        return out if x.shape[0] else -out


NET = Two()
X, Y = torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 8)
CALLS: dict[str, Callable[[Any], object]] = {
    "inspect": lambda inputs: [site.macs for site in rk.inspect(NET, inputs)],
    "expand": lambda inputs: rk.expand(NET, example_inputs=inputs, budget=1.5).a.weight.shape,
    "calibration": lambda inputs: rk.expand(NET, calibration=[inputs]).a.weight.shape,
    "restore_bn": lambda inputs: rk.restore_bn(NET, [inputs]).a.norm.running_mean.tolist(),
    "verify": lambda inputs: [output.relative for output in rk.verify(NET, NET, inputs).outputs],
}


@pytest.mark.parametrize("call", CALLS)
def test_a_list_is_a_sequence_of_arguments_as_a_tuple_is(call: str) -> None:
    assert CALLS[call]([X, Y]) == CALLS[call]((X, Y))


@pytest.mark.parametrize("call", CALLS)
def test_too_few_are_one_line(call: str) -> None:
    for inputs in (X, [X], (X,)):
        with pytest.raises(rk.InputError, match="does not run"):
            CALLS[call](inputs)
