"""Your own model and your own training loop: expand, train, fold, and check that only weights changed.

A small residual net learns to follow a larger one on random images; in your project both come from somewhere better.
Run it with `python examples/own_loop.py`; it takes a few seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import reparam_kit as rk


class Block(nn.Module):
    """The basic block of a ResNet: two convolutions with BatchNorm, and a shortcut."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions plus the shortcut."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet(width: int) -> nn.Sequential:
    """Three blocks and a head with ten outputs."""
    blocks = [Block(ins, outs, 2) for ins, outs in ((3, width), (width, 2 * width), (2 * width, 4 * width))]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def main() -> None:
    """Expand, train, fold, verify."""
    torch.manual_seed(0)
    deployed, teacher = resnet(4), resnet(16).eval()
    for site in rk.inspect(deployed):
        print(f"{site.name}: {site.kind}, BatchNorm {site.batch_norm}, {site.reason or 'can be expanded'}")

    student = rk.expand(deployed, block="dbb")
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for step in range(40):
        images = torch.randn(16, 3, 24, 24)
        with torch.no_grad():
            target = teacher(images)
        loss = nn.functional.mse_loss(student(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.4f}")

    folded = rk.fold(student)
    images = torch.randn(4, 3, 24, 24)
    with torch.no_grad():
        difference = (folded.eval()(images) - student.eval()(images)).abs().max().item()
    print(f"largest difference of fold and student: {difference:.1e}")
    assert difference < 1e-5

    report = rk.verify(deployed, folded, images, same_function=False)
    print(report)
    assert report.ok, "the fold has the class, the state_dict names and the modules of the deployed net"


if __name__ == "__main__":
    main()
