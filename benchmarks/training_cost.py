"""What a training step costs with branches: time, peak memory and operators of the expanded net over the plain one's.

    OMP_NUM_THREADS=1 python -m benchmarks.training_cost [--net resnet18] [--batch 16] [--block dbb] [--norm scale]
        [--peer OREPA=../OREPA_CVPR2022/blocks.py:OREPA] [--growth] [--rounds 5] [--device cuda] [-o FILE]

Without options every preset runs with every norm, in four nets at three batches, which takes a night. ``dbb`` with
``batch`` is the Diverse Branch Block as its authors train it. A peer is another's block: a class that takes the
arguments of a convolution and stands for it and its BatchNorm, in a file that is run.

Times are taken in rounds: one step of each arm after the other, and each arm's time over the plain net's in the same
round, so that a machine that changes its speed slows all arms down alike. On a CPU it is processor time, which other
work on the machine disturbs least; with one thread, since threads that wait for each other spend it too. Peak memory
is that of a process of its own for each arm, above what it held before the net was built; the parameters that train,
with gradient and momentum, are a part of it that no way of composing them can save. Operators are the calls that
torch's profiler sees.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import click
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import reparam_kit as rk
from benchmarks import memory
from benchmarks.nets import NETS, Net, plain, row
from reparam_kit.algebra import NORMS, PRESETS

_PLAIN = "plain"
_DEPTHS = (4, 8, 16, 32)
_BRANCHES = (1, 2, 4, 8)
_BEGINNING = 4  # steps, within which what composes kernels is recorded on CUDA
T = TypeVar("T")


class Arm(NamedTuple):
    """What is trained in the place of the plain net, as it is written on the command line."""

    text: str

    def build(self, net: Net) -> tuple[nn.Module, tuple[int, ...]]:
        """Return the net, and the shape of an image."""
        if self.text == _PLAIN:
            return net(plain)
        if "=" in self.text:
            return net(_peer(self.text))
        model, size = net(plain)
        block, norm = self.text.split(", ")
        return rk.expand(model, block, norm), size

    def __str__(self) -> str:
        return self.text.partition("=")[0]


def _peer(text: str) -> Callable[..., nn.Module]:
    path, _, name = text.partition("=")[2].rpartition(":")
    block = getattr(rk.import_file(path), name)

    def unit(
        inputs: int, outputs: int, taps: int, stride: int = 1, groups: int = 1, padding: int | None = None
    ) -> nn.Module:
        padding = taps // 2 if padding is None else padding
        made: nn.Module = block(inputs, outputs, taps, stride=stride, padding=padding, groups=groups)
        return made

    return unit


def find_net(name: str) -> Net:
    """Return a net by its name, or a row of as many convolutions as the name says."""
    return row(int(name.removeprefix("row"))) if name.startswith("row") else NETS[name]


def trainer(net: str, arm: Arm, batch: int, device: str) -> Callable[[], None]:
    """Return a function that does one training step: forward, backward, SGD with momentum."""
    torch.manual_seed(0)
    model, size = arm.build(find_net(net))
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    x = torch.randn(batch, *size, device=device)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


class Cost(NamedTuple):
    """Of a step: seconds, each round's over the first's, and operators."""

    seconds: list[float]
    ratios: list[float]
    operators: int


def measure(net: str, arms: list[Arm], batch: int, rounds: int, device: str) -> dict[Arm, Cost]:
    """Take ``rounds`` steps of each arm, in turns; the first of ``arms`` is the plain net."""
    return in_turns({arm: trainer(net, arm, batch, device) for arm in arms}, rounds, device)


def in_turns(steps: Mapping[T, Callable[[], None]], rounds: int, device: str) -> dict[T, Cost]:
    """Take ``rounds`` of these steps, in turns, and hold each against the first."""
    operators = {arm: count_operators(step) for arm, step in steps.items()}
    clock = time.process_time if device == "cpu" else time.perf_counter
    taken: dict[T, list[float]] = {arm: [] for arm in steps}
    for _ in range(rounds):
        for arm, step in steps.items():
            start = clock()
            step()
            taken[arm].append(clock() - start)
    first = next(iter(taken.values()))
    return {
        arm: Cost(own, [a / b for a, b in zip(own, first, strict=True)], operators[arm])
        for arm, own in taken.items()
    }


def count_operators(step: Callable[[], None]) -> int:
    """Return the calls of aten's operators in a step that is not one of the first."""
    for _ in range(_BEGINNING):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    return sum(event.name.startswith("aten::") for event in seen.events())


def peak(net: str, arm: Arm, batch: int, device: str) -> tuple[float, float]:
    """MiB that training takes at its peak, in a process of its own, and those of parameters, gradients and momentum."""
    command = [sys.executable, "-m", "benchmarks.training_cost", "--peak-of", net, arm.text, str(batch)]
    done = subprocess.run([*command, "--device", device], check=True, capture_output=True, text=True)
    most, held = map(float, done.stdout.split())
    return most, held


def measure_peak(net: str, arm: Arm, batch: int, device: str) -> tuple[float, float]:
    """As ``peak``, in this process."""
    torch.zeros(1, device=device)
    before = memory.held()
    model, _ = arm.build(find_net(net))
    held = 3 * sum(parameter.nbytes for parameter in model.parameters()) / 2**20
    del model
    step = trainer(net, arm, batch, device)
    for _ in range(_BEGINNING):
        step()
    most = memory.peak() - before if device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
    return most, held


def rows(net: str, arms: list[Arm], batch: int, rounds: int, device: str) -> Iterator[str]:
    """Yield the lines of a table, one for each arm; the first of ``arms`` is the plain net."""
    peaks = [peak(net, arm, batch, device) for arm in arms]
    costs = measure(net, arms, batch, rounds, device)
    plain_most, plain_operators = peaks[0][0], costs[arms[0]].operators
    for (arm, (seconds, ratios, operators)), (most, held) in zip(costs.items(), peaks, strict=True):
        yield (
            f"| {net} | {batch} | {arm} | {statistics.median(seconds):.3f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
            f"{most:.0f} | {most / plain_most:.2f} | {held:.0f} | "
            f"{operators:,} | {operators / plain_operators:.2f} |"
        )


def growth(device: str, rounds: int) -> Iterator[str]:
    """Yield the lines of a table: what depth and branches add to a step, in operators and seconds."""
    first = Arm(_PLAIN)
    cases = [(depth, block) for block in ("dbb", "orepa") for depth in _DEPTHS]
    cases += [(_DEPTHS[1], f"conv(k) + {count} * (conv(1) >> conv(k))") for count in _BRANCHES]
    for depth, block in cases:
        arm = Arm(f"{block}, scale")
        costs = measure(f"row{depth}", [first, arm], 8, rounds, device)
        seconds = [a - b for a, b in zip(costs[arm].seconds, costs[first].seconds, strict=True)]
        added = costs[arm].operators - costs[first].operators
        yield f"| {depth} | {block} | {added:,} | {1000 * statistics.median(seconds):.1f} |"


_COSTS = """\
| net | batch | arm | s a step | time ratio (range) | peak MiB | memory ratio | of it held | operators | ratio |
|---|---:|---|---:|---:|---:|---:|---:|---:|---:|"""
_GROWTH = """
| equal layers | block | operators added | ms added |
|---:|---|---:|---:|"""


@click.command()
@click.option(
    "--net", "nets", multiple=True, type=click.Choice(list(NETS)), help="Only this net; may be repeated."
)
@click.option("--batch", "batches", multiple=True, type=int, default=(4, 16, 64), show_default=True)
@click.option("--block", "blocks", multiple=True, help="Only this preset or expression; may be repeated.")
@click.option(
    "--norm", "norms", multiple=True, type=click.Choice(list(NORMS)), help="Only this norm; may be repeated."
)
@click.option(
    "--peer", "peers", multiple=True, metavar="NAME=FILE:CLASS", help="Another's block; may be repeated."
)
@click.option("--growth/--no-growth", "grows", default=True, help="What depth and branches add.")
@click.option("--rounds", default=5, show_default=True, help="Steps of each arm.")
@click.option("--device", default="cpu", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown file to write.")
@click.option("--peak-of", nargs=3, hidden=True)
def main(
    nets: tuple[str, ...],
    batches: tuple[int, ...],
    blocks: tuple[str, ...],
    norms: tuple[str, ...],
    peers: tuple[str, ...],
    grows: bool,
    rounds: int,
    device: str,
    output: Path | None,
    peak_of: tuple[str, str, str] | None,
) -> None:
    """Print time, peak memory and operators of a step of each arm, over the plain net's."""
    if peak_of is not None:
        net, text, batch = peak_of
        print(*measure_peak(net, Arm(text), int(batch), device))
        return
    ours = [f"{block}, {norm}" for block in blocks or PRESETS for norm in norms or NORMS]
    arms = [Arm(text) for text in (_PLAIN, *ours, *peers)]
    lines = [
        "Made by `python -m benchmarks.training_cost`. Ratios are to the plain net in the same round (time) or to its "
        "process (memory), of which `of it held` are parameters, gradients and momentum.",
        "",
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {rounds} rounds.",
        "",
        _COSTS,
    ]
    print("\n".join(lines))
    tables = [rows(net, arms, batch, rounds, device) for net in nets or NETS for batch in batches]
    if grows:
        tables += [iter([_GROWTH]), growth(device, rounds)]
    for table in tables:
        for line in table:
            lines.append(line)
            print(line, flush=True)
    if output is not None:
        output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
