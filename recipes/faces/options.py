"""What the options of ``reparam-kit evaluate`` ask for: models and judges."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import reparam_kit as rk
from recipes.faces.aligning.placement import Placement, find_placement
from recipes.faces.embedding.embedder import Embedder
from recipes.faces.embedding.inputs import CHOICES, input_preset
from recipes.faces.judging.classes import ClassesJudge
from recipes.faces.judging.judge import COMPARED, Judge
from recipes.faces.judging.pairs import PairsJudge, read_set
from recipes.faces.judging.people import PeopleJudge
from recipes.faces.judging.placing import judged_placement
from recipes.faces.judging.reading import read_judge
from recipes.faces.judging.retrieval import RetrievalJudge
from recipes.faces.judging.several import Candidate
from recipes.faces.judging.wanted import input_warning, try_inputs
from recipes.faces.sets.datasets import read_faces

LOGGER = logging.getLogger(__name__)

_PARTS = (  # an option, what it is of, and what is said where that is missing
    ("roc", "pairs", "--roc draws the curves of --pairs, which is not given"),
    *(
        (name, "pairs", "--images, --detector-score, --flip and --folds are for --pairs, which is not given")
        for name in ("images", "detector_score", "flip", "folds")
    ),
    ("query", "gallery", "--query is searched in --gallery: give both"),
    ("gallery", "query", "--query is searched in --gallery: give both"),
    ("impostors", "people", "--impostors sets thresholds for the faces of --people, which is not given"),
    ("alike", "impostors", "--alike says which of --impostors are of one person, which are not given"),
)


def candidates(
    models: tuple[str, ...],
    presets: tuple[str, ...],
    outputs: tuple[str, ...],
    weights: Path | None,
    unsafe_load: bool,
) -> dict[str, Candidate]:
    """Load the models, each with its input preset and the name of its embedding; ``.onnx`` files stay files.

    Raises:
        InputError: a model cannot be loaded, or the options do not fit the number of models.
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
    if weights and sum(map(rk.is_factory, models)) != 1:
        named = ", ".join(models)
        raise rk.InputError(f"--weights is for package.module:factory, one of them; the models are {named}")
    each = [given * (len(models) if len(given) == 1 else 1) for given in (presets, outputs or (None,))]
    return {
        model: Candidate(loaded(model, weights, unsafe_load), preset, output)
        for model, preset, output in zip(models, *each, strict=True)
    }


def loaded(model: str, weights: Path | None, unsafe_load: bool) -> Any:
    """Load a model; an ``.onnx`` file stays a file."""
    if model.endswith(".onnx"):
        return model
    return rk.load(model, weights=weights if rk.is_factory(model) else None, unsafe=unsafe_load)


def warn_of_inputs(models: Mapping[str, Candidate], found: Mapping[str, Judge]) -> None:
    """Warn of each model that does better, by the first judge, with another input than its own."""
    judge = next(iter(found.values()))
    for name, model in models.items():
        asked = input_preset(model.input)
        line = input_warning(name, try_inputs(model.model, judge, asked, model.embedding), asked.name)
        if line is not None:
            LOGGER.warning(
                "%s: a wrong input costs accuracy and no error; reparam-kit inputs tries them all", line
            )


def judges(
    pairs: Path | None,
    images: Path | None,
    classes: Path | None,
    query: Path | None,
    gallery: Path | None,
    people: Path | None,
    impostors: Path | None,
    alike: tuple[str, str] | None,
    others: tuple[str, ...],
    *,
    flip: bool,
    detector_score: bool,
    folds: int | None,
    bootstrap: int,
    batch_size: int,
    roc: Path | None,
) -> dict[str, Judge]:
    """Read what is judged on, by the names that the tables show.

    Raises:
        InputError: a set cannot be read, an option is given without the one that it belongs to, or nothing is left.
    """
    _require_wholes(locals())
    found: dict[str, Judge] = {}
    drawn: dict[str, Any] = {"bootstrap": bootstrap, "batch_size": batch_size, "progress": True}
    if pairs is not None:
        known = read_set(pairs, images, detector_score)
        found[str(pairs)] = PairsJudge(known, flip=flip, folds=folds, **drawn)
    if classes is not None:
        found[str(classes)] = ClassesJudge(classes, **drawn)
    if query is not None and gallery is not None:
        found[f"{query} in {gallery}"] = RetrievalJudge(query, gallery, **drawn)
    if people is not None:
        drawn["bootstrap"] = bootstrap or COMPARED
        says: dict[str, Any] = {} if alike is None else {"alike": alike[0], "alike_input": alike[1]}
        name = f"people of {people}" + (f", thresholds of {impostors}" if impostors else "")
        found[name] = PeopleJudge(people, impostors, **says, **drawn)
    found |= {other: read_judge(other) for other in others}
    if not found:
        raise rk.InputError(
            "nothing to judge by: give --pairs, --people, --classes, or --query and --gallery"
        )
    return found


def warn_of_placement(candidate: Candidate, judges: Mapping[str, Judge]) -> None:
    """Warn of each judge whose faces lie elsewhere than the model expects them."""
    embedder = Embedder(candidate.model, input_preset(candidate.input), embedding=candidate.embedding)
    for name, judge in judges.items():
        found = judged_placement(embedder, judge)
        if found is not None and not found.aligned:
            LOGGER.warning("%s: %s", name, found)


def placement_of(candidate: Candidate, data: Path) -> Placement:
    """Find out where the faces of ``data`` lie, a verification set or what :func:`read_faces` opens.

    Raises:
        InputError: it cannot be read, or where they lie cannot be known.
    """
    embedder = Embedder(candidate.model, input_preset(candidate.input), embedding=candidate.embedding)
    pairs = data.suffix.lower() == ".bin"
    found = (
        judged_placement(embedder, PairsJudge(data)) if pairs else find_placement(embedder, read_faces(data))
    )
    if found is None:
        raise rk.InputError(
            f"{data}: where the faces lie is seen on 16 square crops or more, of at least 96 pixels, of different "
            "people, by a net that tells them apart"
        )
    return found


def _require_wholes(given: Mapping[str, Any]) -> None:
    for option, whole, told in _PARTS:
        if given[option] and given[whole] is None:
            raise rk.InputError(told)
