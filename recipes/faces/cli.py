"""``reparam-kit evaluate``: the figures of a model on a verification set, as a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

import reparam_kit as rk
from recipes.faces.inputs import PRESETS

if TYPE_CHECKING:
    from recipes.faces.evaluation import Evaluation


@click.command()
@click.argument("model")
@click.option("--pairs", required=True, type=click.Path(path_type=Path), help="Verification set (.bin).")
@click.option(
    "--input", "preset", metavar="PRESET", help=f"What the model expects, required: {', '.join(PRESETS)}."
)
@click.option("--flip", is_flag=True, help="Add the embedding of each mirrored image.")
@click.option(
    "--folds", type=click.IntRange(min=2), default=10, show_default=True, help="Folds of the accuracy."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images run at once."
)
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for package.module:factory.")
@click.option("--unsafe-load", is_flag=True, help="Unpickle a .pt file, which can run code that it carries.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate(
    model: str,
    pairs: Path,
    preset: str | None,
    flip: bool,
    folds: int,
    batch_size: int,
    weights: Path | None,
    unsafe_load: bool,
    as_json: bool,
) -> None:
    """Measure MODEL on a face verification set.

    MODEL is a .onnx file, which runs in onnxruntime, a .pt file, or package.module:factory with --weights FILE.

    The accuracy is that of LFW View 2: consecutive folds, the threshold of each from the others. TAR at FAR is over
    all pairs.
    """
    if preset is None:
        raise rk.InputError(
            "--input is required and has no default: a wrong channel order or normalisation costs accuracy without "
            f"any error; choose one of {', '.join(PRESETS)}"
        )
    from recipes.faces.evaluation import evaluate as evaluate_model

    onnx = model.endswith(".onnx")
    if onnx and weights:
        raise rk.InputError(f"--weights is for package.module:factory; {model} has its own")
    loaded = model if onnx else rk.load(model, weights=weights, unsafe=unsafe_load)
    result = evaluate_model(loaded, pairs, preset, flip, batch_size, folds)
    if as_json:
        click.echo(json.dumps({"model": model, "set": str(pairs), **result.to_json()}, indent=2))
    else:
        _show(model, pairs, result)


def _show(model: str, pairs: Path, result: Evaluation) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("", model, box=box.SIMPLE)
    table.add_row("set", f"{pairs}, {result.genuine} genuine and {result.impostors} impostor pairs")
    table.add_row("input", f"{result.input}, {'with' if result.flip else 'without'} flip")
    table.add_row("embedding", str(result.embedding_size))
    table.add_row(
        "accuracy",
        f"{result.accuracy:.2%} (standard deviation {result.accuracy_std:.2%}, {result.folds} folds)",
    )
    table.add_row("threshold", f"cosine {result.threshold:.4f}, mean of the folds")
    for far, tar in result.tar_at_far.items():
        unmeasured = f"not measurable: needs {round(1 / far):,} impostor pairs"
        table.add_row(f"TAR at FAR {far:g}", unmeasured if tar is None else f"{tar:.2%}")
    Console(markup=False, highlight=False).print(table)
