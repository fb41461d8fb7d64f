"""``reparam-kit evaluate``: the figures of one or more models by one or more judges, as tables, JSON or ROC plot.

``reparam-kit inputs``: which input preset a model wants.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import reparam_kit as rk
from recipes.faces.embedding.inputs import CHOICES

if TYPE_CHECKING:
    from recipes.faces.judging.several import Judgements
    from recipes.faces.judging.wanted import FoundInput


_imports = click.option(
    "--import",
    type=click.Path(),
    multiple=True,
    metavar="FILE",
    expose_value=False,
    is_eager=True,
    callback=lambda ctx, param, files: [rk.import_file(file) for file in files],
    help="Run a Python file of yours first, which defines judges; it can do anything.",
)
_weights = click.option(
    "--weights", type=click.Path(path_type=Path), help="State dict for package.module:factory."
)
unsafe_load_option = click.option(
    "--unsafe-load", is_flag=True, help="Unpickle a .pt file, which can run code that it carries."
)


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    help="Verification set: a .bin, a list of pairs, CFP's folder, YTF's splits.txt, or an IJB folder.",
)
@click.option(
    "--images",
    type=rk.RootPath(path_type=Path),
    help="Folder of aligned crops that the paths of a list start in.",
)
@click.option(
    "--classes",
    type=click.Path(path_type=Path),
    help="Labelled images, a folder of classes, a list or a .rec: top-1 and top-5.",
)
@click.option(
    "--query", type=click.Path(path_type=Path), help="Images to search for in --gallery: rank-1 and mAP."
)
@click.option(
    "--gallery",
    type=click.Path(path_type=Path),
    help="Images to search. Both have Market-1501's names, or are folders of people.",
)
@click.option(
    "--people",
    type=click.Path(path_type=Path),
    help="Labelled faces, a folder of people, a list or a .rec: TAR over all pairs, rank-1 and TPIR.",
)
@click.option(
    "--impostors",
    type=click.Path(path_type=Path),
    help="Faces of many others for --people: TAR at thresholds that their pairs set.",
)
@click.option(
    "--alike",
    metavar="MODEL PRESET",
    nargs=2,
    help="A strong model and its input: pairs of --impostors that it takes for one person are left out.",
)
@click.option(
    "--judge",
    "others",
    metavar="KIND:PATH",
    multiple=True,
    help="A judge of another package, or of --import; again for more.",
)
@_imports
@click.option("--against", metavar="OTHER", help="Compare each MODEL with this one, example by example.")
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
    help="Sets drawn for 95 % intervals; 1000 is usual, and what --people has.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images run at once."
)
@click.option("--roc", type=rk.OutputPath(".svg", ".png"), help="Write the ROC curves to this .svg or .png.")
@_weights
@unsafe_load_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of a table: a list for several models."
)
def evaluate(
    models: tuple[str, ...],
    against: str | None,
    presets: tuple[str, ...],
    outputs: tuple[str, ...],
    weights: Path | None,
    unsafe_load: bool,
    roc: Path | None,
    as_json: bool,
    **judged: Any,
) -> None:
    """Judge each MODEL, by pairs of faces, people, labelled images, or searches; two are also compared.

    MODEL is a .onnx file, which runs in onnxruntime, a .pt file, or package.module:factory with --weights FILE.

    The accuracy is that of LFW View 2: the threshold of each fold from the others. TAR at FAR is over all pairs.
    A comparison gives each difference with its interval, and the probability that it is chance. Where OTHER needs an
    --input of its own, that is the last one.
    """
    from recipes.faces.judging.several import judge_models
    from recipes.faces.options import candidates, judges, warn_of_inputs, warn_of_placement

    models = models if against is None else (*models, against)
    given = candidates(models, presets, outputs, weights, unsafe_load)
    by = judges(roc=roc, **judged)
    found = judge_models(given, by, against=against, roc=roc)
    warn_of_inputs(given, by)
    warn_of_placement(given[models[0]], by)
    if as_json:
        shown = found.to_json()
        click.echo(json.dumps(shown if len(shown) > 1 else shown[0], indent=2))
    else:
        _show(found)


@click.command()
@click.argument("model", type=click.Path())
@click.option(
    "--val",
    type=click.Path(),
    metavar="SET",
    help="Verification set, people:FACES, classes:FOLDER or retrieval:QUERY,GALLERY, as for tsmr.",
)
@click.option("--val-people", "people", type=click.Path(), help="Labelled faces, as --val people:FACES.")
@_imports
@click.option(
    "--input",
    "presets",
    multiple=True,
    metavar="PRESET",
    help="A preset or formula to try besides; again for more.",
)
@click.option("--embedding", metavar="NAME", help="Output that is the embedding, where several could be.")
@click.option(
    "--examples",
    type=click.IntRange(min=4),
    default=300,
    show_default=True,
    help="Examples of the set to try on, such as pairs; more of them tell smaller differences.",
)
@_weights
@unsafe_load_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def inputs(
    model: str,
    val: str | None,
    people: str | None,
    presets: tuple[str, ...],
    embedding: str | None,
    examples: int,
    weights: Path | None,
    unsafe_load: bool,
    as_json: bool,
) -> None:
    """Try MODEL with every input preset, and say which one it wants, or that this could not be told.

    MODEL is a .onnx file, a .pt file, or package.module:factory with --weights FILE.

    Presets are told apart by what separates best on few examples, of pairs and people d'. The best is what the model
    wants where each other one is behind it by more than chance, on the same examples.
    """
    from recipes.faces.judging.wanted import find_input
    from recipes.faces.options import loaded

    if (val is None) == (people is None):
        raise rk.InputError("give what judges the model: --val SET or --val-people FACES, and not both")
    judge = f"people:{people}" if val is None else val
    found = find_input(loaded(model, weights, unsafe_load), judge, examples, presets, embedding)
    if as_json:
        click.echo(json.dumps({"model": model, "set": judge, **found.to_json()}, indent=2))
    else:
        _show_inputs(found)


def _show_inputs(found: FoundInput) -> None:
    from rich.console import Console

    from recipes.faces.judging.table import inputs_table

    console = Console(markup=False, highlight=False)
    console.print(inputs_table(found))
    console.print(rk.printable(found.told()), soft_wrap=True)


def _show(found: Judgements) -> None:
    from rich.console import Console

    from recipes.faces.judging.table import comparison_table, figures_table

    console = Console(markup=False, highlight=False)
    for judge, verdicts in found.verdicts.items():
        first = next(iter(verdicts.values()))
        console.print(rk.printable(f"{judge}: {first.subject}"), soft_wrap=True)
        console.print(figures_table(verdicts, notes=True))
        for names, comparison in found.comparisons[judge].items():
            console.print(f"compared: {comparison.method}", soft_wrap=True)
            console.print(comparison_table(comparison, names))
