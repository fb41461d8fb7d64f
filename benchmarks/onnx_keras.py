"""ONNX files of Keras, tf2onnx and skl2onnx, into the importer and back into the file.

    python -m benchmarks.onnx_keras_nets FOLDER     # where tensorflow is
    python -m benchmarks.onnx_keras FOLDER          # where torch is

The first command writes the files, the second checks them as ``onnx_checks.round_trip`` says and writes
benchmarks/results/onnx_keras.md. Exit status 1 if anything fails. How far outputs may differ is said at
``onnx_checks.error``.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np
import onnx
import torch
from torch import nn

import reparam_kit as rk
from benchmarks.onnx_checks import round_trip, rounding

RESULTS = Path(__file__).parent / "results" / "onnx_keras.md"
# Which block the files of a maker are expanded with.
BLOCKS = {"keras-15": "dbb", "tf2onnx-13": "repvgg", "tf2onnx-18-nchw": "acb", "skl2onnx-18": "dbb"}


@dataclass(frozen=True)
class Result:
    """What came of one file: errors relative to the output's scale and the layers found, or a failure."""

    net: str
    maker: str
    producer: str = ""
    layers: tuple[str, ...] = ()
    errors: tuple[float, ...] = ()
    failure: str = ""

    def __str__(self) -> str:
        return self.failure or " ".join(f"{error * 1e6:.1f}" for error in self.errors)


def trial(path: Path) -> Result:
    """All checks of one file."""
    net, maker = path.stem, path.parent.name
    try:
        with np.load(path.with_suffix(".npz")) as arrays:
            known = torch.from_numpy(arrays["y"])
            inputs = [torch.from_numpy(arrays[name]) for name in arrays.files if name != "y"]
        model = rk.load(path)
        own = rounding(model, inputs) if maker != "skl2onnx-18" else 0.0  # which casts to float32
        with torch.no_grad():
            result = model(inputs[0])
        result = result[0] if isinstance(result, tuple) else result
        of_maker = float((result - known.reshape(result.shape)).abs().max() / known.abs().max())
        errors = round_trip(model, path, inputs, BLOCKS[maker])
        proto = onnx.load(path)
        producer = f"{proto.producer_name} {proto.producer_version.split()[0]}"
        return Result(net, maker, producer, layers(model), (own, of_maker, *errors))
    except Exception as problem:  # whatever goes wrong is a line of the table
        text = " ".join(str(problem).split())
        return Result(net, maker, failure=f"{type(problem).__name__}: {text}"[:400])


def layers(model: nn.Module) -> tuple[str, ...]:
    """How many layers of each kind are sites, and why others are not."""
    sites = rk.inspect(model)
    found = Counter(site.kind for site in sites)
    free = Counter(site.kind for site in sites if site.reason is None)
    reasons = Counter(f"{site.kind}: {site.reason}" for site in sites if site.reason is not None)
    return (
        *(f"{kind} {free[kind]}/{count}" for kind, count in sorted(found.items())),
        *(f"{count} {reason}" for reason, count in sorted(reasons.items())),
    )


def table(results: list[Result]) -> str:
    """Markdown."""
    failed = [result for result in results if result.failure]
    producers = sorted({result.producer for result in results if result.producer})
    cells = {(result.net, result.maker): result for result in results}
    makers = [maker for maker in BLOCKS if any(result.maker == maker for result in results)]
    lines = [
        "# ONNX: files of Keras, tf2onnx and skl2onnx",
        "",
        "Made by `python -m benchmarks.onnx_keras_nets FOLDER` and `python -m benchmarks.onnx_keras FOLDER`, which say "
        f"what is checked (files of {', '.join(producers)}; torch {torch.__version__}, "
        f"onnxruntime {version('onnxruntime')}).",
        "",
        f"{len(results) - len(failed)} of {len(results)} files pass: import, identity (same bytes), retrained (expand, "
        "move, fold, write back: only payloads differ). They are expanded with "
        f"{', '.join(f'`{BLOCKS[maker]}` ({maker})' for maker in makers)}.",
        "",
        "A cell holds, in units of 1e-6 and relative to the scale of the output: how far the import in float32 is from "
        "itself in float64 (0 where the file casts); how far it is from what the net gave where it came from; the "
        "errors of import and of retrained against onnxruntime. The last two may be 10, or 4 times the first where the "
        "random net magnifies rounding that much. `-`: its maker does not take this net. Layers: those that are sites "
        "of those that there are.",
        "",
        "| net | layers | " + " | ".join(makers) + " |",
        "|---|---|" + "---|" * len(makers),
    ]
    for net in dict.fromkeys(result.net for result in results):
        row = [cells.get((net, maker)) for maker in makers]
        found = dict.fromkeys("; ".join(result.layers) for result in row if result and result.layers)
        columns = ["-" if result is None else "FAILED" if result.failure else str(result) for result in row]
        lines.append(f"| {net} | {' or '.join(found)} | {' | '.join(columns)} |")
    if failed:
        lines += ["", "Failures:", ""]
        lines += [f"- {result.net}, {result.maker}: {result.failure}" for result in failed]
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(folder: Path) -> None:
    """Check the files under FOLDER."""
    results = []
    torch.manual_seed(0)
    for path in sorted(folder.glob("*/*.onnx"), key=lambda path: (path.stem.lower(), path.parent.name)):
        start = time.perf_counter()
        results.append(trial(path))
        seconds = time.perf_counter() - start
        click.echo(f"{results[-1].net} {results[-1].maker} ({seconds:.0f} s): {results[-1]}", err=True)
    RESULTS.write_text(table(results))
    if any(result.failure for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
