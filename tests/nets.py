"""Small nets, each with one thing that is easily got wrong."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ConvNormAct(nn.Module):
    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Plain(nn.Module):
    """Every geometry in a row: strides, dilations, groups, even and asymmetric kernels, all padding modes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNormAct(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), 8)
        self.groups = ConvNormAct(
            nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, padding_mode="reflect"), 8
        )
        self.depthwise = ConvNormAct(
            nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False, padding_mode="circular"), 8
        )
        self.even = nn.Conv2d(8, 6, 4, padding="same")
        self.flat = nn.Conv2d(6, 6, (1, 3), padding=(0, 1), padding_mode="replicate")
        self.point = nn.Conv2d(6, 10, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.groups(self.stem(x)))
        x = torch.relu(self.point(self.flat(self.even(x))))
        return self.head(x.mean((2, 3)))


class Shared(nn.Module):
    """One convolution called twice, another under two names and in a Python list."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.alias = self.first
        self.steps = [self.first, self.twice]

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = torch.relu(step(x))
        return self.alias(self.twice(x))


class Residual(nn.Module):
    """The convolution's output feeds a BatchNorm and a skip: the BatchNorm is not its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x + self.bn(x)


class Dynamic(nn.Module):
    """Control flow on values: symbolic tracing gives up."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else self.conv(-x)


class Line(nn.Module):
    """One dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(3, 4, 5, padding=2), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 4, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.flatten(2))


class Upsampling(nn.Module):
    """Transposed convolutions in all their geometries, and an output size that the caller asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 8, 4, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.groups = nn.ConvTranspose2d(8, 4, 3, stride=2, output_padding=1, groups=2, dilation=2)
        self.depthwise = nn.ConvTranspose2d(4, 4, (2, 3), stride=(2, 1), padding=(0, 1), groups=4)
        self.asked = nn.ConvTranspose2d(4, 3, 3, stride=3, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.up(x[..., :7, :7])))
        x = self.depthwise(torch.relu(self.groups(x)))
        size = [3 * length - 4 for length in x.shape[2:]]
        return self.asked(x, output_size=size)


class Perceptron(nn.Module):
    """Linear layers, on vectors and on sequences of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.mix = nn.Linear(6, 8)
        self.hidden = nn.Linear(8, 8, bias=False)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.mix(self.conv(x).flatten(2).transpose(1, 2)).relu()
        return self.head(self.norm(self.hidden(tokens.mean(1))))


NETS = [Plain, Shared, Residual, Dynamic, Line, Upsampling, Perceptron]


def build(kind: type[nn.Module]) -> nn.Module:
    """The net with weights and BatchNorm statistics of a trained one: none of them 0 or 1."""
    net = kind()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net


def images(size: int = 2) -> Tensor:
    return torch.randn(size, 3, 17, 17)


def disturb(net: nn.Module) -> nn.Module:
    """Move every parameter and statistic, as training does."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.add_(0.1 * torch.randn_like(module.running_mean))
                module.running_var.mul_(1 + 0.2 * torch.rand_like(module.running_var))
    return net


def nudged(model: nn.Module, relative: float) -> nn.Module:
    """A copy with every parameter moved by about ``relative`` of itself."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1 + relative * torch.randn_like(parameter).sign())
    return copied
