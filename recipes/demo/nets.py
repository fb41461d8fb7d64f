"""The two networks of the demo: stacks of 3x3 convolution, BatchNorm and PReLU with identity shortcuts.

They read RGB pictures of ``drawing.SIZE`` pixels as float32 ``(n, 3, 48, 48)`` in -1..1 and return embeddings
``(n, size)``, not normalised.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def student() -> nn.Module:
    """Return the small network that is deployed: 64-d embedding, 0.12 M parameters, 3 M multiplications a picture."""
    return _FaceNet(widths=(16, 32, 48, 64), depths=(0, 1, 1, 1), embedding=64)


def teacher() -> nn.Module:
    """Return the larger network that the student learns from: 128-d embedding, 0.5 M parameters."""
    return _FaceNet(widths=(24, 32, 64, 128), depths=(0, 1, 2, 2), embedding=128)


class _FaceNet(nn.Module):
    """Four stages, each of which halves the picture; the last maps are weighed by place and mixed by channel."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int], embedding: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            *(
                _Stage(ins, outs, depth)
                for ins, outs, depth in zip((3, *widths), widths, depths, strict=False)
            )
        )
        last = widths[-1]
        self.pool = nn.Sequential(
            nn.Conv2d(last, last, 3, groups=last, bias=False), nn.BatchNorm2d(last), nn.Flatten()
        )
        self.embed = nn.Linear(last, embedding)

    def forward(self, pictures: Tensor) -> Tensor:
        embeddings: Tensor = self.embed(self.pool(self.stages(pictures)))
        return embeddings


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
    return nn.Sequential(nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.PReLU(outs))
