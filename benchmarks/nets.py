"""The nets whose training is measured, made of a convolution with its BatchNorm that may be anything of that size."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Unit = Callable[..., nn.Module]
"""``(inputs, outputs, taps, stride, groups)`` to a module: a convolution, padded, and a BatchNorm."""
Net = Callable[[Unit], tuple[nn.Module, tuple[int, ...]]]
"""A unit to a net made of them, and the shape of an image."""


def plain(
    inputs: int, outputs: int, taps: int, stride: int = 1, groups: int = 1, padding: int | None = None
) -> nn.Module:
    """Return a convolution and a BatchNorm."""
    padding = taps // 2 if padding is None else padding
    conv = nn.Conv2d(inputs, outputs, taps, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """What ``body`` gives, and its input, through ``skip``; then ``behind``."""

    def __init__(self, body: nn.Module, skip: nn.Module, behind: nn.Module) -> None:
        super().__init__()
        self.body, self.skip, self.behind = body, skip, behind

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.behind(self.body(x) + self.skip(x))
        return out


def _resnet(unit: Unit, counts: tuple[int, ...], bottleneck: bool) -> tuple[nn.Module, tuple[int, ...]]:
    layers = [unit(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, count in enumerate(counts):
        width = 64 * 2**stage
        outputs = width * (4 if bottleneck else 1)
        for i in range(count):
            stride = 2 if stage and not i else 1
            if bottleneck:
                body = [unit(inputs, width, 1), nn.ReLU(), unit(width, width, 3, stride), nn.ReLU()]
                body.append(unit(width, outputs, 1))
            else:
                body = [unit(inputs, width, 3, stride), nn.ReLU(), unit(width, width, 3)]
            skip = nn.Identity() if inputs == outputs else unit(inputs, outputs, 1, stride)
            layers.append(Residual(nn.Sequential(*body), skip, nn.ReLU()))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000)]
    return nn.Sequential(*layers, *head), (3, 224, 224)


def resnet18(unit: Unit = plain) -> tuple[nn.Module, tuple[int, ...]]:
    """ResNet-18 (K. He et al., CVPR 2016) at 224 pixels."""
    return _resnet(unit, (2, 2, 2, 2), bottleneck=False)


def resnet50(unit: Unit = plain) -> tuple[nn.Module, tuple[int, ...]]:
    """ResNet-50 (K. He et al., CVPR 2016; the stride at its 3x3 convolutions) at 224 pixels."""
    return _resnet(unit, (3, 4, 6, 3), bottleneck=True)


def _inverted(
    unit: Unit, inputs: int, outputs: int, inner: int, stride: int, act: Callable[[int], nn.Module]
) -> nn.Module:
    first = [unit(inputs, inner, 1), act(inner)] if inner != inputs else []
    body = nn.Sequential(*first, unit(inner, inner, 3, stride, inner), act(inner), unit(inner, outputs, 1))
    return Residual(body, nn.Identity(), nn.Identity()) if stride == 1 and inputs == outputs else body


def _inverted_stages(
    unit: Unit, channels: int, rows: tuple[tuple[int, ...], ...], act: Callable[[int], nn.Module]
) -> list[nn.Module]:
    """Inverted residuals: rows of expansion, channels out, how many, and the stride of the first."""
    layers = []
    for expansion, outputs, count, stride in rows:
        for i in range(count):
            layers.append(_inverted(unit, channels, outputs, expansion * channels, 1 if i else stride, act))
            channels = outputs
    return layers


def mobilenetv2(unit: Unit = plain) -> tuple[nn.Module, tuple[int, ...]]:
    """MobileNetV2 (M. Sandler et al., CVPR 2018, table 2) at 224 pixels."""

    def act(_: int) -> nn.Module:
        return nn.ReLU6()

    rows = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    body = [unit(3, 32, 3, 2), act(32), *_inverted_stages(unit, 32, rows, act), unit(320, 1280, 1), act(1280)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    return nn.Sequential(*body, *head), (3, 224, 224)


def mobilefacenet(unit: Unit = plain) -> tuple[nn.Module, tuple[int, ...]]:
    """MobileFaceNet (S. Chen et al., CCBR 2018, table 1) at 112 pixels."""
    rows = (2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)
    body = [unit(3, 64, 3, 2), nn.PReLU(64), unit(64, 64, 3, 1, 64), nn.PReLU(64)]
    body += _inverted_stages(unit, 64, rows, nn.PReLU)
    head = [unit(128, 512, 1), nn.PReLU(512), unit(512, 512, 7, 1, 512, 0), unit(512, 128, 1), nn.Flatten()]
    return nn.Sequential(*body, *head), (3, 112, 112)


def row(depth: int) -> Net:
    """Return a net of ``depth`` equal convolutions of 64 channels, on small images."""

    def net(unit: Unit = plain) -> tuple[nn.Module, tuple[int, ...]]:
        layers = [layer for _ in range(depth) for layer in (unit(64, 64, 3), nn.ReLU())]
        return nn.Sequential(unit(3, 64, 3), *layers), (3, 16, 16)

    return net


NETS: dict[str, Net] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenetv2": mobilenetv2,
    "mobilefacenet": mobilefacenet,
}
