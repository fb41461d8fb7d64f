"""Faces with people's names, or without: what people are judged on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from recipes.faces.images.items import Items, item_image
from recipes.faces.judging.all_pairs import Ints
from recipes.faces.sets.datasets import read_faces
from recipes.faces.sets.faces import read_labels
from reparam_kit import InputError, fingerprint


@dataclass(frozen=True, eq=False)
class Portraits:
    """Images, and whose each is.

    Attributes:
        images: what they are taken from.
        chosen: which of these, int64 ``[N]``.
        people: whose, ``0 .. P - 1``, int64 ``[N]``.
        passed_over: how many more ``images`` has, whose it is not known.
    """

    images: Items
    chosen: Ints
    people: Ints
    passed_over: int = 0

    @classmethod
    def read(cls, given: Portraits | Items | str | os.PathLike[str], *, strangers: bool = False) -> Portraits:
        """Open a set, unless it is open; of images without a label each is ``strangers``' own, or else passed over."""
        if isinstance(given, Portraits):
            return given
        images: Items = read_faces(given) if isinstance(given, str | os.PathLike) else given
        labels, count = read_labels(images), len(images)
        known = labels >= 0
        if strangers:
            labels = np.where(known, labels, labels.max(initial=-1) + 1 + np.arange(count))
            known[:] = True
        chosen = np.flatnonzero(known)
        people = np.unique(labels[chosen], return_inverse=True)[1].astype(np.int64)
        return cls(images, chosen, people, count - len(chosen))

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Tensor:
        image = int(self.chosen[index])
        return item_image(self.images[image], f"image {image}")

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.__getitem__, range(len(self)))

    @property
    def per_person(self) -> Ints:
        """How many images of each person there are, int64 ``[P]``."""
        return np.bincount(self.people)

    @property
    def impostor_pairs(self) -> int:
        """How many pairs of images show two people."""
        return (len(self) ** 2 - int((self.per_person**2).sum())) // 2

    def some(self, count: int) -> Portraits:
        """Return all images of people spread evenly, about ``count`` images and at least those of a pair of people."""
        order = np.argsort(-self.per_person, kind="stable")
        people = max(2, math.floor(count * len(order) / len(self)))
        taken = order[np.unique(np.linspace(0, len(order) - 1, min(people, len(order))).round().astype(int))]
        kept = np.isin(self.people, taken)
        return Portraits(self.images, self.chosen[kept], np.unique(self.people[kept], return_inverse=True)[1])

    @cached_property
    def content(self) -> str:
        """A number for all images and whose they are."""
        return fingerprint([[fingerprint(image) for image in self], self.people])


def require_pairs(people: Portraits) -> None:
    """Raise InputError where there are no pairs of one person, or none of two people."""
    counts = people.per_person
    if len(counts) < 2 or counts.max(initial=0) < 2:
        unknown = f", {people.passed_over:,} of nobody known" * bool(people.passed_over)
        raise InputError(
            f"{len(people):,} images show {len(counts):,} people{unknown}: to judge by people needs two of them, and "
            "two images of one"
        )


def require_one_size(people: Portraits, others: Portraits) -> None:
    """Raise InputError where the images of two sets differ in size, or there are fewer than two others."""
    if len(others) < 2:
        raise InputError(f"{len(others)} impostor images make no pair: give as many faces as there are")
    ours, theirs = (tuple(next(iter(faces)).shape[-2:]) for faces in (people, others))
    if ours != theirs:
        raise InputError(
            f"the images of people are {ours[0]} x {ours[1]} pixels (height x width) and those of impostors "
            f"{theirs[0]} x {theirs[1]}: align the faces of both alike"
        )
