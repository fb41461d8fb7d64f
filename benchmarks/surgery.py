"""How long expand and fold take, and how much memory: ResNet-50, and a CNN of 200 M parameters.

    python -m benchmarks.surgery [-o FILE]

Each net runs in a process of its own. Memory is what expand, and then fold, takes at its peak above what was held
before it, the model it returns included, in units of the net's own size. Linux only.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import nn

import reparam_kit as rk
from benchmarks.memory import held, peak, start_peak


def resnet50() -> nn.Module:
    """25.6 M parameters, 53 convolutions."""
    import torchvision

    return torchvision.models.resnet50()


def large() -> nn.Module:
    """A plain CNN of 201 M parameters: 21 convolutions of 3x3, 1024 to 1024 channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 1024, 3, padding=1)]
    for _ in range(21):
        layers += [nn.Conv2d(1024, 1024, 3, padding=1, bias=False), nn.BatchNorm2d(1024), nn.ReLU()]
    return nn.Sequential(*layers)


NETS = {"resnet50": resnet50, "large": large}


def watch(work: Callable[[], nn.Module]) -> tuple[nn.Module, float, float]:
    """What ``work`` returns, seconds, and MiB at the peak above what was held before."""
    start_peak()
    before, start = held(), time.perf_counter()
    model = work()
    return model, time.perf_counter() - start, peak() - before


def measure(net: str, block: str) -> tuple[float, ...]:
    """Millions of parameters, seconds of expand and fold, and peak memory of each in units of the net's size."""
    model = NETS[net]()
    rk.fold(rk.expand(nn.Conv2d(8, 8, 3), block))  # what is imported on first use
    parameters = sum(p.numel() for p in model.parameters())
    size = 4 * parameters / 2**20
    student, expand, expand_peak = watch(lambda: rk.expand(model, block))
    _, fold, fold_peak = watch(lambda: rk.fold(student))
    return parameters / 1e6, expand, fold, expand_peak / size, fold_peak / size


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown file to write.")
def main(output: Path | None) -> None:
    """Print the table."""
    lines = [
        "Made by `python -m benchmarks.surgery`.",
        "",
        f"torch {torch.__version__}, {torch.get_num_threads()} threads.",
        "",
        "| net | parameters | block | expand, s | fold, s | expand, nets of memory | fold, nets of memory |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    print("\n".join(lines))
    context = multiprocessing.get_context("spawn")
    for net in NETS:
        for block in ("repvgg", "dbb"):
            with context.Pool(1) as pool:
                parameters, *rest = pool.apply(measure, (net, block))
            lines.append(
                " | ".join([f"| {net} | {parameters:.1f} M | {block}", *(f"{x:.2f}" for x in rest)]) + " |"
            )
            print(lines[-1], flush=True)
    if output is not None:
        output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
