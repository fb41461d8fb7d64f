"""Judges made of the training images: ``val="auto"`` holds some of them out, and says so.

Where people are known, some are held out whole, and images of nobody known set thresholds besides; a run is then judged
as by people of another set. Where nobody is known, images are held out, and judged is agreement with the teacher. Of a
classifier some images of each class are held out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from recipes.faces import Judge, PeopleJudge, read_faces
from recipes.faces.judging.agreement import AgreementJudge
from recipes.faces.judging.portraits import Portraits
from recipes.faces.judging.reading import Judged
from recipes.tsmr.targets.examples import identity_labels
from recipes.tsmr.targets.holdout import hold_out_of_classes
from recipes.tsmr.targets.views import Images, Part
from reparam_kit import InputError

AUTO = "auto"

_SHARE = 0.2  # of the images, at most, that are held out
_MOST = 2000  # of either kind
_FEWEST = 100  # images of nobody known that are worth holding out
_PAIRS = 10  # genuine pairs to judge by, at least


def with_auto(
    data: str | Path | Images,
    val: Judged | Sequence[Judged] | None,
    logits: Callable[[Images], int | None],
) -> tuple[str | Path | Images, Judged | Sequence[Judged] | None, str]:
    """Put a judge in the place of "auto" in ``val``: the images without those that it holds, what judges, and a line
    that says what was held out; all as it is, and no line, where nothing is "auto". ``logits`` tells how many
    the student gives of the images, None where it is no classifier.

    Raises:
        InputError: the images are a stream, or too few.
    """
    judges: list[Any] = list(val) if isinstance(val, list | tuple) else [val]
    places = [
        place for place, judge in enumerate(judges) if isinstance(judge, str | Path) and str(judge) == AUTO
    ]
    if not places:
        return data, val, ""
    images: Any = read_faces(data) if isinstance(data, str | Path) else data
    if isinstance(images, IterableDataset):
        raise InputError(
            "val='auto' holds images out, which cannot be told beforehand in a stream: give a set"
        )
    rest, judge, line = _held_out(images, logits(images))
    for place in places:
        judges[place] = judge
    return rest, judges, line


def _held_out(images: Any, logits: int | None) -> tuple[Part, Judge, str]:
    begin = f"val='auto': held out of the {len(images):,} images: "
    labels = identity_labels(images)
    if logits is not None and labels.max(initial=-1) >= 0:
        part, classes = hold_out_of_classes(images, logits)
        held = np.delete(labels, part.chosen)
        return part, classes, f"{begin}{len(held):,} images of {len(np.unique(held)):,} classes"
    rng = np.random.default_rng(0)
    known, unknown = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    strangers = rng.permutation(unknown)[: min(_MOST, int(_SHARE * len(unknown)))]
    strangers = np.sort(strangers) if len(strangers) >= _FEWEST else strangers[:0]
    people = _some_people(labels, known, rng)
    chosen = known[np.isin(labels[known], people)]
    _, numbers, each = np.unique(labels[chosen], return_inverse=True, return_counts=True)
    others = Portraits(images, strangers, np.arange(len(strangers))) if len(strangers) else None
    if len(each) > 1 and (each * (each - 1) // 2).sum() >= _PAIRS:
        judge: Judge = PeopleJudge(Portraits(images, chosen, numbers), others)
        told = f"{len(chosen):,} images of {len(each):,} people"
        told += f" and {len(strangers):,} images of nobody known" * bool(len(strangers))
    elif others is not None:
        chosen, judge = chosen[:0], AgreementJudge(others)
        told = f"{len(strangers):,} images (nobody is known: judged is agreement with the teacher)"
    else:
        raise InputError(
            f"val='auto' holds a fifth of the images out, and of {len(known):,} images of "
            f"{len(np.unique(labels[known])):,} people and {len(unknown):,} of nobody known that is too few to judge "
            f"by: it takes {_PAIRS} pairs of one person, or {_FEWEST} images of nobody known; give a set"
        )
    rest = np.setdiff1d(np.arange(len(images)), np.concatenate([chosen, strangers]))
    return Part(images, rest, labels), judge, begin + told


def _some_people(labels: Any, known: Any, rng: np.random.Generator) -> Any:
    """People drawn at random, until a fifth of the images of known people is theirs."""
    people, counts = np.unique(labels[known], return_counts=True)
    order = rng.permutation(len(people))
    taken = np.cumsum(counts[order]) <= min(_MOST, _SHARE * len(known))
    return people[order[taken]]
