"""Judging without identities: whether a net finds the same faces alike as its teacher does.

Of all pairs of N images a share is taken, those that the teacher finds most alike; the figure is how many of them are
in the same share of the pairs by the net that is judged. It says nothing of people that both take for others.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import Literal

import numpy as np
from torch import Tensor

from recipes.faces.embedding.embedder import Embedder
from recipes.faces.embedding.inputs import InputPreset, input_preset
from recipes.faces.images.items import Item, Items
from recipes.faces.judging.all_pairs import (
    STEP,
    Floats,
    Ints,
    alike_pairs,
    impostor_pairs,
    shares_above,
    shown,
    thresholds,
    unit_rows,
)
from recipes.faces.judging.bootstrap import interval, probability_of_chance
from recipes.faces.judging.judge import COMPARED, Judge, Model
from recipes.faces.judging.people import Alike
from recipes.faces.judging.portraits import Portraits
from recipes.faces.judging.recognition import DECISIVE
from recipes.faces.judging.verdict import Comparison, Figure, Verdict, comparison, require_same
from reparam_kit import InputError, fingerprint

_SHARES = (1e-2, 1e-3, 1e-4)
_DRAWN = "drawn"


class AgreementJudge(Judge, name="agreement"):
    """Judges by unlabelled faces: agreement with a teacher on which pairs are most alike.

    Args:
        images: a set, or what :func:`recipes.faces.read_faces` opens; labels are not looked at.
        batch_size: images run at once.
        bootstrap: sets of images drawn for intervals and comparisons.

    Raises:
        InputError: the set cannot be read or is too small; to judge raises it where no teacher is known.

    >>> faces = [torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8) for _ in range(100)]
    >>> AgreementJudge(faces).with_teacher("teacher.onnx", "raw").name
    'agreement'
    """

    examples = "images"

    def __init__(
        self,
        images: Portraits | Items | str | os.PathLike[str],
        *,
        batch_size: int = 64,
        bootstrap: int = COMPARED,
    ) -> None:
        self._faces = Portraits.read(images, strangers=True)
        self._batch_size, self._bootstrap = batch_size, bootstrap
        self._teacher: Alike | None = None
        pairs = len(self._faces) * (len(self._faces) - 1) // 2
        self._shares = [share for share in _SHARES if shown(share, pairs, DECISIVE)] or [_SHARES[0]]
        if not shown(self._shares[0], pairs):
            raise InputError(f"{len(self._faces)} images make {pairs} pairs, too few to agree on")
        self._decides = _name(self._shares[-1])

    def outputs(self, size: int) -> Literal["embeddings"]:
        """Take them for embeddings, whatever their size."""
        return "embeddings"

    def judge(
        self, model: Model, input: str | InputPreset = "insightface", embedding: str | None = None
    ) -> Verdict:
        """Embed all images, and look which pairs are most alike."""
        if self._teacher is None:
            raise InputError(
                "agreement is with a teacher: with_teacher says which (a run of tsmr has its own)"
            )
        rows = self._embed(Alike(model, input_preset(input), embedding, None))
        found = impostor_pairs(rows, np.arange(len(rows)))
        scores = [_scores(rows, pairs) for pairs in self._alike]

        bounds = thresholds(found, self._shares)  # of all images: what is drawn is which of the pairs count

        def figures(times: Floats | None) -> Floats:
            rates = []
            for alike, pairs, bound in zip(scores, self._alike, bounds, strict=True):
                rising = np.argsort(alike)
                weights = np.ones(len(pairs)) if times is None else times[pairs].prod(axis=1)
                rates.append(shares_above(alike[rising], weights[rising], np.array([bound]))[0])
            return np.array(rates)

        rng = np.random.default_rng(0)
        size = len(rows)
        drawn = [
            figures(np.bincount(rng.integers(size, size=size), minlength=size).astype(np.float64))
            for _ in range(self._bootstrap)
        ]
        shown_all = figures(None)
        ends = [interval(column) for column in np.stack(drawn).T] if drawn else [None] * len(shown_all)
        return Verdict(
            figures=tuple(
                Figure(_name(share), float(value), interval=end)
                if np.isfinite(value)
                else Figure(
                    _name(share), None, missing="not measurable: the teacher finds too many equally alike"
                )
                for share, value, end in zip(self._shares, shown_all, ends, strict=True)
            ),
            decides=self._decides,
            outcomes={_DRAWN: np.array(drawn, np.float32)},
            subject=f"{size:,} images of nobody known: which of {found.pairs:,} pairs the teacher finds alike",
        )

    def compare(self, before: Verdict, after: Verdict) -> Comparison:
        """Compare two models on the same images drawn."""
        require_same(before, after, [])
        found = {}
        if self._bootstrap:
            moved = after.outcomes[_DRAWN].astype(np.float64) - before.outcomes[_DRAWN]
            found = {
                figure.name: (interval(column), probability_of_chance(column))
                for figure, column in zip(before.figures, moved.T, strict=True)
            }
        return comparison(before, after, found, f"images drawn {self._bootstrap:,} times", self.examples)

    def with_teacher(self, teacher: Model, input: str | InputPreset, embedding: str | None = None) -> Judge:
        """Return a judge of agreement with ``teacher``, unless it has one."""
        if self._teacher is not None:
            return self
        taught = copy.copy(self)
        taught._teacher = Alike(teacher, input_preset(input), embedding, None)
        return taught

    def images(self, count: int) -> Sequence[Item]:
        """Return the first images."""
        return list(islice(self._faces, count))

    def identity(self) -> str:
        """Return a number for every image and the teacher."""
        teacher = self._teacher and self._teacher.identity()
        return fingerprint([self.name, self._faces.content, teacher, self._decides, self._bootstrap])

    @cached_property
    def _alike(self) -> list[Ints]:
        """The pairs that the teacher finds most alike, of each share."""
        assert self._teacher is not None
        rows = self._embed(self._teacher)
        found = impostor_pairs(rows, np.arange(len(rows)))
        return [alike_pairs(rows, bound) for bound in thresholds(found, self._shares)]

    def _embed(self, asked: Alike) -> Tensor:
        embedder = Embedder(asked.model, asked.preset, self._batch_size, asked.embedding)
        return unit_rows(embedder.embed(self._faces))


def _name(share: float) -> str:
    return f"agreement at {share:g}"


def _scores(rows: Tensor, pairs: Ints) -> Floats:
    """Cosine similarity of pairs of ``rows`` in steps of ``STEP``, float64 ``[E]``."""
    first, second = (rows[column] for column in pairs.T)
    found: Floats = (first / STEP * second).sum(dim=1).round().mul(STEP).numpy()
    return found
