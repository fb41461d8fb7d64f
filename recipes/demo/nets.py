"""The two networks of the demo, both plain stacks of convolution, BatchNorm and PReLU.

They read RGB pictures of ``drawing.SIZE`` pixels as float32 ``(n, 3, 48, 48)`` in -1..1 and return embeddings
``(n, width)``, not normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def student() -> nn.Module:
    """Build the small network that is deployed: 64-d embedding, 0.09 M parameters."""
    return _FaceNet(widths=(16, 32, 48, 64), depth=1, embedding=64)


def teacher() -> nn.Module:
    """Build the larger network that the student learns from: 128-d embedding, 0.6 M parameters."""
    return _FaceNet(widths=(24, 48, 96, 128), depth=2, embedding=128)


class _FaceNet(nn.Module):
    """Four stages, each halving the picture; a full-size depthwise convolution and a linear map end the net."""

    def __init__(self, widths: tuple[int, ...], depth: int, embedding: int) -> None:
        super().__init__()
        ins = (3, *widths)
        self.stages = nn.Sequential(
            *(_Stage(a, b, 0 if i == 0 else depth) for i, (a, b) in enumerate(zip(ins, widths)))
        )
        self.spread = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 3, groups=widths[-1], bias=False), nn.BatchNorm2d(widths[-1]), nn.Flatten()
        )
        self.embed = nn.Linear(widths[-1], embedding)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.embed(self.spread(self.stages(pictures)))


class _Stage(nn.Module):
    def __init__(self, ins: int, outs: int, depth: int) -> None:
        super().__init__()
        self.down = _unit(ins, outs, stride=2)
        self.blocks = nn.ModuleList(_unit(outs, outs) for _ in range(depth))

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.down(maps)
        for block in self.blocks:
            maps = maps + block(maps)
        return maps


def _unit(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.PReLU(outs)
    )
