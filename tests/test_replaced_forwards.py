"""Forwards that instances have been given: they are followed where that can be, and refused where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType

import pytest
import torch
from nets import disturb
from torch import Tensor, nn

import reparam_kit as rk
from reparam_kit.algebra import NORMS

X = torch.randn(2, 3, 9, 9, dtype=torch.float64)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)).double().eval()


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "something between": lambda own, x: own[1](own[0](x).tanh()),
    "another consumer": lambda own, x: own[1](own[0](x)) + own[0](x),
    "nothing else": lambda own, x: own[1](own[0](x)),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_forward_that_the_model_itself_has_been_given(
    way: Callable[[nn.Module, Tensor], Tensor], norm: str
) -> None:
    model = net()
    model.forward = MethodType(way, model)
    if norm == "batch":
        with pytest.raises(rk.NothingToDoError, match="give example inputs"):
            rk.expand(model, "dbb", norm)
        if way is not WAYS["nothing else"]:
            with pytest.raises(rk.NothingToDoError, match="BatchNorm of its own"):
                rk.expand(model, "dbb", norm, example_inputs=X)
            return
    student = disturb(rk.expand(model, "dbb", norm, example_inputs=X)).eval()
    torch.testing.assert_close(rk.fold(student)(X), student(X), rtol=1e-12, atol=1e-12)


def replace(layer: nn.Module) -> None:
    forward = layer.forward
    layer.forward = lambda x: forward(x) * 2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("part", ["", "base"])
def test_a_forward_that_an_expanded_layer_has_been_given(part: str, norm: str) -> None:
    student = disturb(rk.expand(net(), "dbb", norm)).eval()
    before = student(X)
    replace(student[0].get_submodule(part))
    assert not torch.equal(student(X), before)
    with pytest.raises(rk.InputError, match=r"0 cannot be folded: its forward has been replaced"):
        rk.fold(student)
