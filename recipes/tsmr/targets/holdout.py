"""People held out of training, and pairs made of them: what a learning rate is chosen on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset

from recipes.faces import PairSet
from recipes.tsmr.targets.examples import identity_labels
from recipes.tsmr.targets.views import Images, Part
from reparam_kit import InputError

_HELD_OUT = 0.2  # of the people
_PAIRS_EACH = 10  # genuine pairs of one person, at most
_GENUINE = 3000  # genuine pairs, at most
_FEWEST = 10  # genuine pairs to choose on


def hold_out(images: Images, seed: int = 0) -> tuple[Images, PairSet]:
    """Return the images without a fifth of the people, and pairs of these, half of them genuine.

    Raises:
        InputError: the images have no labels, or the people held out have too few images to make pairs.
    """
    if isinstance(images, IterableDataset):
        raise InputError(
            "controls are compared on people held out, who cannot be told beforehand in a stream"
        )
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
