"""The small student: a net, its training on identities, and its export as a deployed file."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

import reparam_kit as rk
from recipes.demo.identity import train_on_identities
from recipes.tsmr.targets.views import Images


class SmallNet(nn.Module):
    """Fast down-sampling and standard convolutions, as FDFaceNet: RGB in -1..1 ``[N, 3, 112, 112]`` to ``[N, 128]``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _unit(3, 16, 2),
            _unit(16, 32, 2),
            _unit(32, 64, 2),
            _Residual(64),
            _unit(64, 96, 2),
            _Residual(96),
            _Residual(96),
        )
        self.pool = nn.Sequential(
            nn.Conv2d(96, 96, 7, groups=96, bias=False), nn.BatchNorm2d(96), nn.Flatten()
        )
        self.embed = nn.Linear(96, 128)

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.embed(self.pool(self.body(images)))
        return embeddings


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.unit = _unit(width, width)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = maps + self.unit(maps)
        return result


def _unit(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.PReLU(outs))


def train_small(images: Images, path: Path, epochs: int) -> None:
    """Train a net on the identities of ``images`` and export it, BatchNorm folded, batch free."""
    items = [images[index] for index in range(len(images))]  # type: ignore[arg-type]
    torch.manual_seed(0)
    pictures, labels = torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])
    net = train_on_identities(SmallNet(), pictures, labels, epochs)
    axes = {"image": {0: "n"}, "embedding": {0: "n"}}
    with warnings.catch_warnings(), rk.atomic_file(path) as file:
        # torch would rather have its newer exporter, which needs another package.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.zeros(1, 3, 112, 112),), file, dynamo=False, opset_version=17,
            input_names=["image"], output_names=["embedding"], dynamic_axes=axes,
        )  # fmt: skip
