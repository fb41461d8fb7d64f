"""A student to be disturbed: a backbone that is deployed, and a head that trains it."""

from __future__ import annotations

from nets import build, disturb, images
from torch import Tensor, nn

import reparam_kit as rk
from reparam_kit.algebra import NORMS


class Whole(nn.Module):
    """A backbone to be deployed, and a head for training only."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Sequential(nn.Conv2d(4, 2, 1, bias=False))
        self.bn = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.head(self.conv(self.backbone(x)).relu()))


def student(norm: str) -> nn.Module:
    """Expanded, or with "restored" given a BatchNorm where it has lost one, and disturbed; float64, eval mode."""
    net = build(Whole).double()
    if norm == "restored":
        return disturb(rk.restore_bn(net, [images(4).double()])).eval()
    return disturb(rk.expand(net, "dbb", norm)).eval()


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


X = images().double()
ALL = [*NORMS, "restored"]


def base_of(net: nn.Module) -> nn.Module:
    return net.conv.base
