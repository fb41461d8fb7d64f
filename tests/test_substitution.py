"""Copies of expanded models, and parts that copy themselves in ways of their own or cannot be copied."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from nets import disturb
from students import ALL, X, distance
from torch import Tensor, nn
from torch.nn.utils import parametrize

import reparam_kit as rk
from reparam_kit.algebra import Expanded


class Own(nn.Conv2d):
    """It is copied as its maker thinks best."""

    def __deepcopy__(self, memo: dict[int, object]) -> Own:
        copied = Own(self.in_channels, self.out_channels, self.kernel_size).to(self.weight)
        copied.load_state_dict(self.state_dict())
        return copied

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "own": True}


def computed_bias() -> nn.Module:
    layer = nn.Conv2d(3, 4, 3)
    parametrize.register_parametrization(layer, "bias", nn.Tanh(), unsafe=True)
    return layer


@pytest.mark.parametrize("make", [lambda: Own(3, 4, 3), computed_bias], ids=["its own", "parametrised bias"])
def test_copies_of_an_expanded_layer_are_expanded(make: Callable[[], nn.Module]) -> None:
    net = disturb(rk.expand(nn.Sequential(make().double()), "dbb", "scale"))
    copied = copy.deepcopy(net)
    assert type(copied[0]) is Expanded
    assert torch.equal(copied(X), net(X))
    assert distance(rk.fold(copied)(X), net(X)) < 1e-12


class Container(nn.Module):
    """Its copy is made anew."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)

    def __deepcopy__(self, memo: dict[int, object]) -> Container:
        return Container()


def test_a_container_that_loses_its_expansion_in_copying_is_named() -> None:
    with pytest.raises(rk.ReparamError, match="Container copies itself in a way of its own"):
        rk.expand(nn.Sequential(Container()))


@pytest.mark.parametrize(
    ("held", "kind"),
    [(threading.Lock(), "lock"), ((number for number in range(3)), "generator"), ({"log": [open]}, None)],
)
def test_what_cannot_be_copied_is_named(held: object, kind: str | None) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    net[0].held = held
    if kind is None:
        rk.fold(rk.expand(net))
        return
    with pytest.raises(rk.UnsupportedError, match=rf"its attribute 0\.held is a {kind}"):
        rk.expand(net)
    student = rk.expand(nn.Sequential(nn.Conv2d(3, 4, 3)))
    student[0].held = held
    with pytest.raises(rk.UnsupportedError, match=rf"its attribute 0\.base\.held is a {kind}"):
        rk.fold(student)


class Keeping(nn.Module):
    """It keeps what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("average", torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        self.features = {"all": [self.conv(x)]}
        self.average = 0.9 * self.average + self.features["all"][0].mean((0, 2, 3))[:, None, None]
        return self.features["all"][0]


@pytest.mark.parametrize("norm", ALL)
def test_modules_that_keep_their_features(norm: str) -> None:
    net = Keeping().double()
    net(X)
    made = rk.restore_bn(net, [X]) if norm == "restored" else rk.expand(net, "dbb", norm)
    made(X).sum().backward()
    disturb(made).eval()
    assert distance(rk.fold(made)(X), made(X)) < 1e-12
