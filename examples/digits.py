"""Not only faces: a small classifier of scikit-learn's handwritten digits learns from a larger one.

Needs scikit-learn, which ships the images. Run it with `python examples/digits.py`; it takes a few seconds.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import reparam_kit as rk


def cnn(width: int) -> nn.Sequential:
    """8x8 grey images to ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )  # fmt: skip


def train(net: nn.Module, images: Tensor, labels: Tensor, teacher: nn.Module | None, epochs: int) -> None:
    """Cross-entropy, and with a teacher its softened answers too (G. Hinton et al., 2015, temperature 4)."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            scores = net.train()(images[batch])
            loss = F.cross_entropy(scores, labels[batch])
            if teacher is not None:
                with torch.no_grad():
                    soft = F.softmax(teacher(images[batch]) / 4, 1)
                loss = loss + 16 * F.kl_div(F.log_softmax(scores / 4, 1), soft, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()


def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images that are classified rightly."""
    with torch.no_grad():
        return (net.eval()(images).argmax(1) == labels).double().mean().item()


def main() -> None:
    """Train a small net, then go on from there with branches and a teacher."""
    torch.manual_seed(0)
    pixels, targets = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    labels = torch.tensor(targets)
    seen, unseen = slice(0, 1200), slice(1200, None)
    deployed, teacher = cnn(6), cnn(20)
    train(deployed, images[seen], labels[seen], None, epochs=6)
    train(teacher, images[seen], labels[seen], None, epochs=6)

    student = rk.expand(deployed, block="repvgg", calibration=[images[:256]])
    train(student, images[seen], labels[seen], teacher, epochs=4)
    folded = rk.fold(student)

    for name, net in (("deployed", deployed), ("teacher", teacher), ("folded", folded)):
        print(f"{name}: {accuracy(net, images[unseen], labels[unseen]):.1%} of {len(labels[unseen])} digits")
    error = (folded.eval()(images[unseen]) - student.eval()(images[unseen])).abs().max().item()
    print(f"largest difference of fold and student: {error:.1e}")
    assert error < 1e-3
    assert folded.state_dict().keys() == deployed.state_dict().keys()


if __name__ == "__main__":
    main()
