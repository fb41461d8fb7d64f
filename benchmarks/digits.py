"""A classifier with default choices, against a loop written by hand: ``python -m benchmarks.digits [--choices]``.

A small net and a stronger one are trained on scikit-learn's handwritten digits. Then the small one learns from the
other, over as many epochs and images: by ``apply_tsmr`` as it is without any choice but that of the epochs, and by the
loop that one would write: the same ``rk.expand``, Adam at 1e-3, the divergence at temperature 4 and cross entropy.
With ``--choices`` the recipe runs with another block, rate or number of images each time, all else as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

import click
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import StackDataset, TensorDataset

import reparam_kit as rk
from recipes.tsmr import TSMRConfig, apply_tsmr
from recipes.tsmr.stages import CLASSIFY

_BATCH = 64
_SEEN = 1200  # images to train on; the others judge
_TEMPERATURE = 4.0
_CHOICES: dict[str, dict[str, Any]] = {
    "defaults: dbb, lr 0.004, 1200 images": {},
    "no branches": {"block": None},
    "orepa": {"block": "orepa"},
    "lr 0.001": {"lr": 1e-3},
    "lr 0.016": {"lr": 1.6e-2},
}
_FEWER = 300


def digits(seed: int) -> tuple[TensorDataset, TensorDataset]:
    """Digits to train on and to judge by: images float32 ``[N, 1, 8, 8]`` in -1..1, labels int64 ``[N]``."""
    pixels, targets = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], torch.tensor(targets)[order]
    return TensorDataset(images[:_SEEN], labels[:_SEEN]), TensorDataset(images[_SEEN:], labels[_SEEN:])


def cnn(width: int) -> nn.Sequential:
    """Digits to ten logits."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10),
    )  # fmt: skip


def train(
    net: nn.Module, data: TensorDataset, teacher: nn.Module | None, lr: float, epochs: int
) -> nn.Module:
    """Train by Adam: cross entropy, and with a teacher the divergence from its softened answers too."""
    images, labels = data.tensors
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    net.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(_BATCH):
            logits = net(images[batch])
            loss = F.cross_entropy(logits, labels[batch])
            if teacher is not None:
                loss = loss + _divergence(logits, teacher, images[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.eval()


def _divergence(logits: Tensor, teacher: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        soft = F.softmax(teacher(images) / _TEMPERATURE, dim=1)
    return _TEMPERATURE**2 * F.kl_div(
        F.log_softmax(logits / _TEMPERATURE, dim=1), soft, reduction="batchmean"
    )


def by_hand(student: nn.Module, teacher: nn.Module, data: TensorDataset, epochs: int) -> nn.Module:
    """Train the expanded student by the loop, and fold it."""
    expanded = rk.expand(student, "dbb", calibration=[data.tensors[0][:_BATCH]])
    return rk.fold(train(expanded, data, teacher, 1e-3, epochs))


def by_recipe(student: nn.Module, teacher: nn.Module, data: TensorDataset, **choices: Any) -> nn.Module:
    """Train the student by the recipe, as it is but for ``choices``."""
    images: Any = StackDataset(*data.tensors)
    return apply_tsmr(student, teacher, images, config=TSMRConfig(**choices)).model


def accuracy(net: nn.Module, data: TensorDataset) -> float:
    """The share of images that are classified rightly."""
    images, labels = data.tensors
    with torch.no_grad():
        return (net.eval()(images).argmax(dim=1) == labels).double().mean().item()


def prepared(seed: int) -> tuple[TensorDataset, TensorDataset, nn.Module, nn.Module]:
    """Digits to train on, digits to judge by, the student and the teacher."""
    torch.manual_seed(seed)
    seen, unseen = digits(seed)
    teacher = train(cnn(20), seen, None, 1e-2, 6)
    student = train(cnn(6), seen, None, 1e-2, 6)
    torch.manual_seed(seed)
    return seen, unseen, student, teacher


def one_seed(seed: int, epochs: int) -> dict[str, float]:
    """The accuracy of each net, on digits that none has seen."""
    seen, unseen, student, teacher = prepared(seed)
    nets = {
        "student": student,
        "teacher": teacher,
        "loop by hand": by_hand(student, teacher, seen, epochs),
        "apply_tsmr, defaults": by_recipe(student, teacher, seen, epochs=epochs, seed=seed),
    }
    return {name: accuracy(net, unseen) for name, net in nets.items()}


def one_seed_of_choices(seed: int, epochs: int) -> dict[str, float]:
    """The accuracy with each choice; runs on fewer images take as many steps."""
    seen, unseen, student, teacher = prepared(seed)
    usual = {"epochs": epochs, "steps": _SEEN // _BATCH, "seed": seed}
    found = {"deployed, not trained": accuracy(student, unseen)}
    few = TensorDataset(*(tensor[:_FEWER] for tensor in seen.tensors))
    runs = {name: (seen, choices) for name, choices in _CHOICES.items()} | {f"{_FEWER} images": (few, {})}
    for name, (data, choices) in runs.items():
        found[name] = accuracy(by_recipe(student, teacher, data, **usual, **choices), unseen)
        click.echo(f"seed {seed}, {name}: {found[name]:.1%}", err=True)
    return found


def table(found: Sequence[dict[str, float]]) -> str:
    """Mean and standard deviation over the seeds, and the seeds, as Markdown."""
    lines = ["| net | accuracy, mean and deviation | seeds |", "|---|---|---|"]
    for name in found[0]:
        values = [100 * each[name] for each in found]
        spread = f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"
        lines.append(f"| {name} | {spread} | {', '.join(f'{value:.1f}' for value in values)} |")
    return "\n".join(lines)


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=CLASSIFY.epochs, show_default=True)
@click.option("--choices", is_flag=True, help="Try blocks, rates and numbers of images instead.")
def main(seeds: int, epochs: int, choices: bool) -> None:
    """Print the accuracy of each on digits that none has seen, in percent."""
    measured = one_seed_of_choices if choices else one_seed
    click.echo(table([measured(seed, epochs) for seed in range(seeds)]))


if __name__ == "__main__":
    main()
