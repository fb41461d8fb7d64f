"""A classifier of torchvision learns from one of timm: that the nets give logits is found out, and said.

Needs torchvision and timm. Run it with `python examples/classifier.py`; it takes a minute. Nothing is fetched: for a
real run, give pretrained nets and your own images, such as a `torchvision.datasets.ImageFolder`.
"""

from __future__ import annotations

import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from recipes.faces import ClassesJudge
from recipes.tsmr import TSMRConfig, apply_tsmr

CLASSES = 4


def colours(count: int, seed: int) -> TensorDataset:
    """Noisy images uint8 ``[3, 32, 32]``, each with the number of its colour."""
    generator = torch.Generator().manual_seed(seed)
    shades = torch.tensor([[190, 90, 90], [90, 190, 90], [90, 90, 190], [150, 150, 90]])
    labels = torch.arange(count) % CLASSES
    noise = 60 * torch.randn(count, 3, 32, 32, generator=generator)
    return TensorDataset((shades[labels][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8), labels)


def train(net: nn.Module, data: TensorDataset, steps: int) -> nn.Module:
    """Take a few steps of cross entropy, in the place of pretrained weights."""
    images, labels = data.tensors
    optimizer = torch.optim.Adam(net.train().parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(images / 127.5 - 1), labels).backward()
        optimizer.step()
    return net.eval()


def main() -> None:
    """Train both, then the student with its teacher, and hold it against what it was."""
    torch.manual_seed(0)
    seen, unseen = colours(64, seed=0), colours(64, seed=1)
    student = train(torchvision.models.resnet18(num_classes=CLASSES), seen, steps=1)
    teacher = train(timm.create_model("resnet10t", num_classes=CLASSES), seen, steps=20)
    config = TSMRConfig(epochs=3, batch_size=16, block="acb")
    report = apply_tsmr(student, teacher, seen, ClassesJudge(unseen), config).report
    print(report.task)
    for moment, verdicts in (("before", report.before), ("after", report.after)):
        print(f"{moment}: top-1 {verdicts[0]['top-1'].shown()}")
    assert report.after[0].deciding.goodness >= report.before[0].deciding.goodness


if __name__ == "__main__":
    main()
