"""Every convolution is answered for: a site, or a reason."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from nets import Dynamic, Plain, Residual, Shared, build
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import reparam_kit as rk


def test_a_plain_net() -> None:
    sites = {site.name: site for site in rk.inspect(build(Plain))}
    assert list(sites) == ["stem.conv", "groups.conv", "depthwise.conv", "even", "flat", "point"]
    assert all(site.reason is None and site.calls == 1 for site in sites.values())
    assert [site.batch_norm for site in sites.values()] == [
        "stem.bn",
        "groups.bn",
        "depthwise.bn",
        None,
        None,
        None,
    ]
    stem = sites["stem.conv"]
    assert (stem.kind, stem.geometry.weight_shape, stem.stride, stem.bias) == (
        "Conv2d",
        (8, 3, 3, 3),
        (2, 2),
        False,
    )


def test_calls_are_counted_and_aliases_are_one() -> None:
    assert [(site.name, site.calls) for site in rk.inspect(build(Shared))] == [("twice", 2), ("first", 2)]


def test_a_batch_norm_behind_a_fork_is_not_the_convolutions_own() -> None:
    (site,) = rk.inspect(build(Residual))
    assert site.batch_norm is None


def test_an_untraceable_net_still_has_sites() -> None:
    (site,) = rk.inspect(build(Dynamic))
    assert (site.reason, site.calls, site.batch_norm) == (None, None, None)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Conv2d(3, 3, 3)
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    net[1].weight = net[0].weight
    return net


def frozen() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3)).requires_grad_(False)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Functional, "functional call"),
        (Unused, "never runs it"),
        (tied, "its weight is also"),
        (frozen, "requires_grad=False"),
        (lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 3, 3))), "parametrization"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 3)), "lazy module"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 3, dtype=torch.complex64)), "complex64, not floating point"),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 3, 3)), "transposed"),
        (lambda: rk.expand(nn.Sequential(nn.Conv2d(3, 3, 3))), "expanded already"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_reasons(net: type[nn.Module], reason: str) -> None:
    reasons = [site.reason for site in rk.inspect(net()) if site.reason]
    assert reasons
    assert all(reason in text for text in reasons)


def test_a_batch_norm_without_running_statistics_is_no_home_for_a_shift() -> None:
    (site,) = rk.inspect(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)))
    assert (site.batch_norm, site.reason) == (None, None)


@pytest.mark.parametrize("training", [True, False])
def test_inspecting_leaves_the_mode_alone(training: bool) -> None:
    net = build(Plain).train(training)
    rk.inspect(net)
    assert {module.training for module in net.modules()} == {training}
