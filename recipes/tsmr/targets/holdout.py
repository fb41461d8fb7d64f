"""People held out of training, and pairs made of them; or some images of each class: what a rate is chosen on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from recipes.faces import ClassesJudge, PairSet
from recipes.tsmr.targets.examples import identity_labels, unnamed_logits
from recipes.tsmr.targets.views import Images, Part
from reparam_kit import InputError

_HELD_OUT = 0.2  # of the people, or of the images of each class
_OF_CLASSES = 2000  # images of all classes, at most
_PAIRS_EACH = 10  # genuine pairs of one person, at most
_GENUINE = 3000  # genuine pairs, at most
_FEWEST = 10  # genuine pairs, or images of classes, to choose on


def hold_out_of_classes(images: Images, logits: int) -> tuple[Part, ClassesJudge]:
    """Return the images without a fifth of those of each class, at most 2,000, and what judges so many logits by these.

    An image without a label is not held out.

    Raises:
        InputError: the images have no labels, too few of them, or not those of the logits.
    """
    if unnamed := unnamed_logits(images, logits):
        raise InputError(unnamed)
    labels = identity_labels(images)
    known = np.random.default_rng(0).permutation(np.flatnonzero(labels >= 0))
    share = min(_HELD_OUT, _OF_CLASSES / max(len(known), 1))
    known = known[np.argsort(labels[known], kind="stable")]
    of_each = np.split(known, np.flatnonzero(np.diff(labels[known])) + 1)
    held = np.sort(np.concatenate([rows[: int(share * len(rows))] for rows in of_each]))
    if len(held) < _FEWEST or len(np.unique(labels[held])) < 2:
        raise InputError(
            f"a fifth of the images of each class is held out to judge by, and of {len(known)} images with a "
            f"label that is {len(held)}: too few to judge by"
        )
    shown: Any = Part(images, held, labels, classes=True)
    rest = Part(images, np.setdiff1d(np.arange(len(labels)), held), labels, classes=True)
    return rest, ClassesJudge(shown, outputs="logits", classes=logits)


def hold_out(images: Images, seed: int = 0) -> tuple[Images, PairSet]:
    """Return the images without a fifth of the people, and pairs of these, half of them genuine.

    Raises:
        InputError: the images have no labels, or the people held out have too few images to make pairs.
    """
    labels = identity_labels(images)
    if labels.min() < 0:
        raise InputError(
            "a learning rate is chosen on people held out, which needs images that are all labelled"
        )
    rng = np.random.default_rng(seed)
    people, starts = np.unique(np.sort(labels), return_index=True)
    if len(people) < 4:
        raise InputError(
            f"the images show {len(people)} people: two to hold out and two to train on are the fewest"
        )
    rows_of = np.split(np.argsort(labels, kind="stable"), starts[1:])
    held = rng.choice(len(people), max(2, round(_HELD_OUT * len(people))), replace=False)
    of = [rows_of[person] for person in held]
    genuine = [(number, pair) for number, rows in enumerate(of) for pair in _pairs_within(rows, rng)]
    if len(genuine) < _FEWEST:
        raise InputError(
            f"{len(held)} people held out make {len(genuine)} genuine pairs, too few to choose a learning rate: "
            "the images need more people with several images each"
        )
    pairs: list[tuple[int, int]] = []
    for chosen in rng.permutation(len(genuine))[:_GENUINE]:
        number, (first, second) = genuine[chosen]
        other = of[(number + 1 + rng.integers(len(of) - 1)) % len(of)]
        pairs += [(first, second), (first, int(rng.choice(other)))]
    kept = np.flatnonzero(~np.isin(labels, people[held]))
    shown = Part(images, np.array(pairs).reshape(-1), labels)
    return Part(images, kept, labels), PairSet(shown, np.arange(len(pairs)) % 2 == 0)


def _pairs_within(rows: npt.NDArray[np.int64], rng: np.random.Generator) -> list[tuple[int, int]]:
    first, second = np.triu_indices(len(rows), k=1)
    chosen = rng.permutation(len(first))[:_PAIRS_EACH]
    return [(int(rows[first[i]]), int(rows[second[i]])) for i in chosen]
