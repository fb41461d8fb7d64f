"""Which examples of a judge changed sides: wrong by the deployed model and right by the new one, or the other way.

Their images are people's faces, which a page may show only where they are its maker's to show: they are gathered where
they are asked for, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from recipes.faces import Judge, Verdict
from recipes.faces.images.items import item_image

_SHOWN = 12  # examples of each kind

Example: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True)
class Sides:
    """What changed sides by one judge.

    Attributes:
        subject: what it judged.
        examples: what it calls what came out right or wrong.
        gained, lost: how many became right, and how many wrong.
        right, wrong: the images of the first of either, uint8 ``[C, H, W]``, one or more of each example.
    """

    subject: str
    examples: str
    gained: int
    lost: int
    right: tuple[Example, ...]
    wrong: tuple[Example, ...]


def changed_sides(
    judges: Sequence[Judge], before: Sequence[Verdict], after: Sequence[Verdict]
) -> Iterator[Sides]:
    """Yield what changed sides by each judge that can tell, and has images to show.

    Raises:
        InputError: an image cannot be read.
    """
    for judge, old, new in zip(judges, before, after, strict=True):
        ours, theirs = judge.right(old), judge.right(new)
        if ours is not None and theirs is not None and judge.example(0):
            gained, lost = (np.flatnonzero(moved) for moved in (theirs & ~ours, ours & ~theirs))
            right, wrong = (tuple(_shown(judge, numbers[:_SHOWN].tolist())) for numbers in (gained, lost))
            yield Sides(old.subject, judge.asked or judge.examples, len(gained), len(lost), right, wrong)


def _shown(judge: Judge, numbers: Sequence[int]) -> Iterator[Example]:
    """Yield the images of examples whose images are pixels."""
    for number in numbers:
        images = [item_image(item, f"example {number}") for item in judge.example(number)]
        if all(image.dtype == torch.uint8 for image in images):
            yield tuple(images)
