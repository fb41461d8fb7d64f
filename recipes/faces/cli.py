"""``reparam-kit evaluate``: the figures of one or more models by one or more judges, as tables, JSON or ROC plot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import reparam_kit as rk
from recipes.faces.embedding.inputs import CHOICES

if TYPE_CHECKING:
    from recipes.faces.judging.judge import Judge, Verdict


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
    "--judge", "others", metavar="KIND:PATH", multiple=True, help="A judge of another package, or again."
)
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
    pairs: Path | None,
    images: Path | None,
    classes: Path | None,
    query: Path | None,
    gallery: Path | None,
    others: tuple[str, ...],
    against: str | None,
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
    """Judge each MODEL, by pairs of faces, labelled images, or searches; two are also compared.

    MODEL is a .onnx file, which runs in onnxruntime, a .pt file, or package.module:factory with --weights FILE.

    The accuracy is that of LFW View 2: the threshold of each fold from the others. TAR at FAR is over all pairs.
    A comparison gives each difference with its interval, and the probability that it is chance. Where OTHER needs an
    --input of its own, that is the last one.
    """
    models = models if against is None else (*models, against)
    asked = _asked(models, presets, outputs, weights)
    if roc:
        from recipes.faces.judging.plot import check_roc

        if pairs is None:
            raise rk.InputError("--roc draws the curves of --pairs, which is not given")
        check_roc(roc)
    if pairs is None and (images or detector_score or flip or folds):
        raise rk.InputError(
            "--images, --detector-score, --flip and --folds are for --pairs, which is not given"
        )
    if (query is None) != (gallery is None):
        raise rk.InputError("--query is searched in --gallery: give both")
    from recipes.faces.judging.classes import ClassesJudge
    from recipes.faces.judging.pairs import PairsJudge, read_set
    from recipes.faces.judging.reading import read_judge
    from recipes.faces.judging.retrieval import RetrievalJudge

    judges: dict[str, Judge] = {}
    drawn: dict[str, Any] = {"bootstrap": bootstrap, "batch_size": batch_size, "progress": True}
    if pairs is not None:
        judges[str(pairs)] = PairsJudge(
            read_set(pairs, images, detector_score), flip=flip, folds=folds, **drawn
        )
    if classes is not None:
        judges[str(classes)] = ClassesJudge(classes, **drawn)
    if query is not None and gallery is not None:
        judges[f"{query} in {gallery}"] = RetrievalJudge(query, gallery, **drawn)
    judges |= {other: read_judge(other) for other in others}
    if not judges:
        raise rk.InputError("nothing to judge by: give --pairs, --classes, or --query and --gallery")
    loaded = {
        model: model
        if model.endswith(".onnx")
        else rk.load(model, weights=weights if _is_factory(model) else None, unsafe=unsafe_load)
        for model in models
    }
    verdicts = {
        subject: {model: judge.judge(loaded[model], *asked[model]) for model in models}
        for subject, judge in judges.items()
    }
    if roc:
        from recipes.faces.judging.plot import save_roc

        save_roc(roc, verdicts[str(pairs)])  # type: ignore[arg-type]
    compared = {
        subject: {
            (old, new): judge.compare(verdicts[subject][old], verdicts[subject][new])
            for old, new in _twos(models, against)
        }
        for subject, judge in judges.items()
    }
    if as_json:
        shown = [
            {"model": model, "set": subject, **verdict.to_json(), **_against(model, compared[subject])}
            for subject, found in verdicts.items()
            for model, verdict in found.items()
        ]
        click.echo(json.dumps(shown if len(shown) > 1 else shown[0], indent=2))
        return
    for subject, found in verdicts.items():
        _show(subject, found, compared[subject])


def _asked(
    models: tuple[str, ...], presets: tuple[str, ...], outputs: tuple[str, ...], weights: Path | None
) -> dict[str, tuple[str, str | None]]:
    """Input preset and name of the embedding for each model."""
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
    if weights and sum(map(_is_factory, models)) != 1:
        named = ", ".join(models)
        raise rk.InputError(f"--weights is for package.module:factory, one of them; the models are {named}")
    each = [given * (len(models) if len(given) == 1 else 1) for given in (presets, outputs or (None,))]
    return {model: (preset, output) for model, preset, output in zip(models, *each, strict=True)}


def _is_factory(model: str) -> bool:
    return ":" in model and not model.endswith((".onnx", ".pt"))


def _twos(models: tuple[str, ...], against: str | None) -> Iterator[tuple[str, str]]:
    """Which models are compared, the old one first: each with ``against``, or else the two that there are."""
    if against is not None:
        return ((against, model) for model in models[:-1])
    return pairwise(models) if len(models) == 2 else iter(())


def _against(model: str, compared: dict[tuple[str, str], Any]) -> dict[str, Any]:
    """The comparisons of ``model`` with older ones, for JSON; nothing where there is none."""
    found = {old: comparison.to_json() for (old, new), comparison in compared.items() if new == model}
    return {"against": found} if found else {}


def _show(subject: str, verdicts: dict[str, Verdict], compared: dict[tuple[str, str], Any]) -> None:
    from rich.console import Console

    from recipes.faces.judging.table import comparison_table, figures_table

    console = Console(markup=False, highlight=False)
    first = next(iter(verdicts.values()))
    console.print(rk.printable(f"{subject}: {first.subject}"), soft_wrap=True)
    console.print(figures_table(verdicts, notes=True))
    for names, comparison in compared.items():
        console.print(f"compared: {comparison.method}", soft_wrap=True)
        console.print(comparison_table(comparison, names))
