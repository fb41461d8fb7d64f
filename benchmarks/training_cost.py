"""What a training step costs with branches: step time and peak memory of the expanded net over the plain one.

    OMP_NUM_THREADS=1 python -m benchmarks.training_cost [--batch 16 --batch 64] [--rounds 5] [--device cuda] [-o FILE]

``batch`` with ``dbb`` is the Diverse Branch Block as its authors train it, and ``orepa`` the online block of OREPA, so
the peers run in the same process as ``scale``. Times are taken in rounds: one step of each arm after the other, and
the median over the rounds of each arm's time over the plain net's in the same round, so that a machine that changes
its speed slows all arms down alike. On a CPU it is processor time, which other work on the machine disturbs least;
with one thread, since threads that wait for each other spend it too. Peak memory is that of a process of its own for
each arm, above what it held before the net was built.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import nn

import reparam_kit as rk
from benchmarks import memory

ARMS = {
    "plain": None,
    "scale, dbb": ("dbb", "scale"),
    "scale, orepa": ("orepa", "scale"),
    "batch, dbb (DBB)": ("dbb", "batch"),
}


def resnet18() -> tuple[nn.Module, tuple[int, ...]]:
    """ResNet-18 at 224 pixels."""
    import torchvision

    return torchvision.models.resnet18(), (3, 224, 224)


def mobilefacenet() -> tuple[nn.Module, tuple[int, ...]]:
    """MobileFaceNet (S. Chen et al., CCBR 2018, table 1) at 112 pixels."""

    def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        padding = 0 if kernel == 7 else kernel // 2
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs)]

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
            super().__init__()
            inner = inputs * expansion
            self.skip = stride == 1 and inputs == outputs
            self.body = nn.Sequential(
                *unit(inputs, inner, 1),
                nn.PReLU(inner),
                *unit(inner, inner, 3, stride, groups=inner),
                nn.PReLU(inner),
                *unit(inner, outputs, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.body(x)
            return x + out if self.skip else out

    layers = [*unit(3, 64, 3, 2), nn.PReLU(64), *unit(64, 64, 3, groups=64), nn.PReLU(64)]
    channels = 64
    for expansion, outputs, count, stride in (
        (2, 64, 5, 2),
        (4, 128, 1, 2),
        (2, 128, 6, 1),
        (4, 128, 1, 2),
        (2, 128, 2, 1),
    ):
        for i in range(count):
            layers.append(Bottleneck(channels, outputs, stride if i == 0 else 1, expansion))
            channels = outputs
    layers += [
        *unit(128, 512, 1),
        nn.PReLU(512),
        *unit(512, 512, 7, groups=512),
        *unit(512, 128, 1),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers), (3, 112, 112)


NETS = {"resnet18": resnet18, "mobilefacenet": mobilefacenet}


def trainer(net: str, arm: str, batch: int, device: str) -> Callable[[], None]:
    """A function that does one training step: forward, backward, SGD with momentum."""
    torch.manual_seed(0)
    model, size = NETS[net]()
    choice = ARMS[arm]
    if choice is not None:
        block, norm = choice
        model = rk.expand(model, block, norm)
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x = torch.randn(batch, *size, device=device)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def times(net: str, batch: int, rounds: int, device: str) -> dict[str, tuple[float, float]]:
    """Median seconds of a step and median ratio to the plain step, by arm."""
    steps = {arm: trainer(net, arm, batch, device) for arm in ARMS}
    for step in steps.values():
        step()
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(rounds):
        for arm, step in steps.items():
            start = clock()
            step()
            taken[arm].append(clock() - start)
    return {
        arm: (
            statistics.median(own),
            statistics.median(a / b for a, b in zip(own, taken["plain"], strict=True)),
        )
        for arm, own in taken.items()
    }


def peak(net: str, arm: str, batch: int, device: str) -> float:
    """MiB that training takes at its peak, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.training_cost",
        "--peak-of",
        net,
        arm,
        str(batch),
        "--device",
        device,
    ]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_peak(net: str, arm: str, batch: int, device: str) -> float:
    """As ``peak``, in this process."""
    torch.zeros(1, device=device)
    before = memory.held()
    step = trainer(net, arm, batch, device)
    for _ in range(2):
        step()
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return memory.peak() - before


@click.command()
@click.option(
    "--net", "nets", multiple=True, type=click.Choice(list(NETS)), help="Only this net; may be repeated."
)
@click.option("--batch", "batches", multiple=True, type=int, default=(16, 64), show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Steps of each arm.")
@click.option("--device", default="cpu", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown file to write.")
@click.option("--peak-of", nargs=3, hidden=True)
def main(
    nets: tuple[str, ...],
    batches: tuple[int, ...],
    rounds: int,
    device: str,
    output: Path | None,
    peak_of: tuple[str, str, str] | None,
) -> None:
    """Print step time and peak memory of each arm, over the plain net's."""
    if peak_of is not None:
        net, arm, batch = peak_of
        print(measure_peak(net, arm, int(batch), device))
        return
    lines = [
        "Made by `python -m benchmarks.training_cost`. Ratios are to the plain net in the same round (time) or to its "
        "process (memory).",
        "",
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {rounds} rounds.",
        "",
        "| net | batch | arm | s a step | time ratio | peak MiB | memory ratio |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    print("\n".join(lines))
    for net in nets or NETS:
        for batch in batches:
            memories = {arm: peak(net, arm, batch, device) for arm in ARMS}
            for arm, (seconds, ratio) in times(net, batch, rounds, device).items():
                own, plain = memories[arm], memories["plain"]
                lines.append(
                    f"| {net} | {batch} | {arm} | {seconds:.3f} | {ratio:.2f} | {own:.0f} | {own / plain:.2f} |"
                )
                print(lines[-1], flush=True)
    if output is not None:
        output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
