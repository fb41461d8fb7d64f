"""What a training step of a quantised face net costs: time and operators of each of its forms over the float net's.

    OMP_NUM_THREADS=1 python -m benchmarks.int8_cost [--form NAME ...] [--batch 16] [--block dbb] [--rounds 9]
        [--record FILE]

Quantises the MobileFaceNet of ``faces/models`` in forms of ``benchmarks.formats`` and trains each beside the float net,
on faces of ``people_dev.rec``, as ``benchmarks.training_cost`` does: a step of each in turns, in processor time, and
each form's over the float net's in the same round. ``--record`` writes the table as Markdown; of all forms it is
``benchmarks/results/int8_cost.md``. The measuring data is looked for beside the project (``../shared/faces``, or
``REPARAM_SHARED``).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import onnxruntime
import torch
from torch import Tensor

import reparam_kit as rk
from benchmarks.formats import FACES, FORMS, INPUTS, Images, faces
from benchmarks.training_cost import in_turns

MODEL = "mobilefacenet"
CHOICES = [form for form in FORMS if form.startswith(("Q/DQ", "QOperator", "dynamic"))]
FLOAT = "float"
_CALIBRATED = 16


def trainer(path: Path, images: Tensor, block: str | None) -> Callable[[], None]:
    """Return a function that does one training step of the net in a file: forward, backward, SGD with momentum."""
    torch.manual_seed(0)
    model = rk.load(path)
    model = (model if block is None else rk.expand(model, block)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()

    return step


def rows(forms: tuple[str, ...], batch: int, block: str | None, rounds: int) -> Iterator[str]:
    """Yield the lines of the table, one for each form, the float net first."""
    source = FACES / "models" / f"{MODEL}.onnx"
    images = torch.from_numpy(faces("people_dev.rec", INPUTS[MODEL], batch))
    steps = {FLOAT: trainer(source, images, block)}
    [entry] = rk.open_session(source).get_inputs()
    seen = faces("pool.rec", INPUTS[MODEL], _CALIBRATED)
    with TemporaryDirectory() as folder:
        for form in forms:
            target = Path(folder) / "quantised.onnx"
            FORMS[form](source, target, Images(entry.name, seen))
            steps[form] = trainer(target, images, block)
    costs = in_turns(steps, rounds, "cpu")
    first = costs[FLOAT].operators
    for form, (seconds, ratios, operators) in costs.items():
        yield (
            f"| {form} | {1000 * statistics.median(seconds):.0f} | {statistics.median(ratios):.2f} | "
            f"{min(ratios):.2f} to {max(ratios):.2f} | {operators:,} | {operators / first:.2f} |"
        )


@click.command()
@click.option("--form", "forms", multiple=True, type=click.Choice(CHOICES), help="Only these forms.")
@click.option("--batch", type=int, default=16, show_default=True)
@click.option("--block", help="Expand both nets by this preset or expression first.")
@click.option("--rounds", type=int, default=9, show_default=True, help="Steps of each form.")
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the table there.")
def main(forms: tuple[str, ...], batch: int, block: str | None, rounds: int, record: Path | None) -> None:
    """Print what a step of each form takes, over the float net's."""
    options = [*(f'--form "{form}"' for form in forms), f"--batch {batch}", f"--rounds {rounds}"]
    options += [] if block is None else [f'--block "{block}"']
    lines = [
        "# What a training step of a quantised net costs",
        "",
        f"Made by `OMP_NUM_THREADS={torch.get_num_threads()} python -m benchmarks.int8_cost {' '.join(options)}` "
        f"(onnxruntime {onnxruntime.__version__}, torch {torch.__version__}): the MobileFaceNet of `faces/models`, in "
        "processor time; a ratio is to the step of the float net in the same round.",
        "",
        "| form | ms a step | time ratio, median | range | operators | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += rows(forms or tuple(CHOICES), batch, block, rounds)
    click.echo("\n".join(lines))
    if record is not None:
        record.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
