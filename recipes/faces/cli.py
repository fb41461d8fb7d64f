"""``reparam-kit evaluate``: the figures of one or more models on a verification set, as a table, JSON or ROC plot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

import reparam_kit as rk
from recipes.faces.embedding.inputs import CHOICES

if TYPE_CHECKING:
    from recipes.faces.judging.bootstrap import Interval
    from recipes.faces.judging.evaluation import Evaluation


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--pairs",
    required=True,
    type=click.Path(path_type=Path),
    help="Verification set: a .bin, a list of pairs, CFP's folder, YTF's splits.txt, or an IJB folder.",
)
@click.option(
    "--images",
    type=rk.RootPath(path_type=Path),
    help="Folder of aligned crops that the paths of a list start in.",
)
@click.option(
    "--input",
    "presets",
    multiple=True,
    metavar="PRESET",
    help=f"What the model expects, required, once for all or once for each: {CHOICES}.",
)
@click.option(
    "--embedding",
    "outputs",
    multiple=True,
    metavar="NAME",
    help="Output that is the embedding, where a model has several that could be; once for all or once for each.",
)
@click.option("--flip/--no-flip", help="Add the embedding of each mirrored image, or not (default).")
@click.option("--detector-score", is_flag=True, help="Weight IJB's images by the detector's score.")
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    help="Consecutive folds of the accuracy.  [default: the set's own, or 10]",
)
@click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Sets drawn for 95 % intervals; 1000 is usual.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images run at once."
)
@click.option("--roc", type=rk.OutputPath(".svg", ".png"), help="Write the ROC curves to this .svg or .png.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for package.module:factory.")
@click.option("--unsafe-load", is_flag=True, help="Unpickle a .pt file, which can run code that it carries.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of a table: a list for several models."
)
def evaluate(
    models: tuple[str, ...],
    pairs: Path,
    images: Path | None,
    presets: tuple[str, ...],
    outputs: tuple[str, ...],
    flip: bool,
    detector_score: bool,
    folds: int | None,
    bootstrap: int,
    batch_size: int,
    roc: Path | None,
    weights: Path | None,
    unsafe_load: bool,
    as_json: bool,
) -> None:
    """Measure each MODEL on a face verification set.

    MODEL is a .onnx file, which runs in onnxruntime, a .pt file, or package.module:factory with --weights FILE.

    The accuracy is that of LFW View 2: the threshold of each fold from the others. TAR at FAR is over all pairs.
    """
    if not presets:
        raise rk.InputError(
            "--input is required and has no default: a wrong channel order or normalisation costs accuracy without "
            f"any error; choose one of {CHOICES}"
        )
    for option, given in (("--input", presets), ("--embedding", outputs or (None,))):
        if len(given) not in (1, len(models)):
            raise rk.InputError(
                f"{len(given)} times {option} for {len(models)} models: once for all, or once for each"
            )
    if len(set(models)) < len(models):
        raise rk.InputError("a model is named twice")
    factories = [model for model in models if ":" in model and not model.endswith((".onnx", ".pt"))]
    if weights and len(factories) != 1:
        named = ", ".join(models)
        raise rk.InputError(f"--weights is for package.module:factory, one of them; the models are {named}")
    if roc:
        from recipes.faces.judging.plot import check_roc

        check_roc(roc)
    from recipes.faces.judging.evaluation import evaluate as evaluate_model
    from recipes.faces.judging.evaluation import read_set

    subject = read_set(pairs, images, detector_score)
    results = {}
    asked = [given * (len(models) if len(given) == 1 else 1) for given in (presets, outputs or (None,))]
    for model, preset, embedding in zip(models, *asked, strict=True):
        loaded = (
            model
            if model.endswith(".onnx")
            else rk.load(model, weights=weights if model in factories else None, unsafe=unsafe_load)
        )
        results[model] = evaluate_model(
            loaded, subject, preset, flip, batch_size, folds, bootstrap, embedding, progress=True
        )
    if roc:
        from recipes.faces.judging.plot import save_roc

        save_roc(roc, results)
    if as_json:
        shown = [{"model": model, "set": str(pairs), **result.to_json()} for model, result in results.items()]
        click.echo(json.dumps(shown if len(shown) > 1 else shown[0], indent=2))
    else:
        _show(pairs, results)


def _show(pairs: Path, results: dict[str, Evaluation]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    first = next(iter(results.values()))
    table = Table("", *map(rk.printable, results), box=box.SIMPLE)

    def row(name: str, cell: Callable[[Evaluation], str]) -> None:
        table.add_row(name, *map(cell, results.values()))

    row("input", lambda r: f"{r.input}, {'with' if r.flip else 'without'} flip")
    row("embedding", lambda r: str(r.embedding_size))
    row("accuracy", lambda r: _share(r.accuracy, r.accuracy_interval))
    row(
        "standard deviation",
        lambda r: f"{r.accuracy_std:.2%} over {r.folds} folds{', dealt by kind' if r.folds_by_kind else ''}",
    )
    row("threshold", lambda r: f"cosine {r.threshold:.4f}, mean of the folds")
    for far in first.tar_at_far:
        row(f"TAR at FAR {far:g}", lambda r, far=far: _tar(r, far))  # type: ignore[misc]
    row("d'", lambda r: "not finite" if r.d_prime is None else f"{r.d_prime:.3f}")
    console = Console(markup=False, highlight=False)
    counts = f"{pairs}: {first.genuine} genuine and {first.impostors} impostor pairs"
    console.print(rk.printable(counts), soft_wrap=True)
    console.print(table)


def _tar(result: Evaluation, far: float) -> str:
    tar = result.tar_at_far[far]
    if tar is None:
        return f"not measurable: needs {round(1 / far):,} impostor pairs"
    return _share(tar, result.tar_intervals[far] if result.tar_intervals else None)


def _share(value: float, interval: Interval | None) -> str:
    return f"{value:.2%}" if interval is None else f"{value:.2%} ({interval[0]:.2%} to {interval[1]:.2%})"
