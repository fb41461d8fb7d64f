"""Your own model and your own training loop: expand, train, fold, and check that only weights changed.

A small CNN learns to follow a larger one on random images; in your project both come from somewhere better.
Run it with `python examples/own_loop.py`; it takes a few seconds.
"""

from __future__ import annotations

import torch
from torch import nn

import reparam_kit as rk


def cnn(width: int) -> nn.Sequential:
    """A deployed net as any other: convolutions with BatchNorm, and a head."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 10),
    )


def main() -> None:
    """Expand, train, fold, verify."""
    torch.manual_seed(0)
    deployed, teacher = cnn(8), cnn(32).eval()
    for site in rk.inspect(deployed):
        print(site.name, site.kind, site.geometry, "->", site.batch_norm)

    student = rk.expand(deployed, block="dbb")
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for step in range(60):
        images = torch.randn(32, 3, 24, 24)
        with torch.no_grad():
            target = teacher(images)
        loss = nn.functional.mse_loss(student(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.4f}")

    folded = rk.fold(student)
    print(rk.verify(deployed, folded, torch.randn(4, 3, 24, 24), same_function=False))
    images = torch.randn(4, 3, 24, 24)
    print("fold against student:", (folded.eval()(images) - student.eval()(images)).abs().max().item())


if __name__ == "__main__":
    main()
