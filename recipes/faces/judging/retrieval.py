"""Judging by retrieval: images of a person are searched for in a gallery, as person re-identification does.

The protocol is Market-1501's (Zheng et al., ICCV 2015): for a query, gallery images of the same person by the same
camera are left out, and so is junk. Rank-k is the share of queries with a right image among the first k. The average
precision of a query is the mean of the precision at each right image, as the field computes it today (the authors'
first code interpolated between these); mAP is its mean over the queries. Images of equal similarity stand with the
wrong ones first, so that a net that gives everything the same embedding finds nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from recipes.faces.embedding.embedder import Embedder
from recipes.faces.embedding.inputs import InputPreset, input_preset
from recipes.faces.images.items import Item, Items
from recipes.faces.judging.judge import Judge, Model
from recipes.faces.judging.verdict import Verdict
from recipes.faces.sets.searches import JUNK, Shots, label_shots, read_shots
from reparam_kit import InputError, fingerprint

Floats = npt.NDArray[np.float64]

_RANKS = (1, 5, 10)
_QUERIES = 512  # searched at once
_SHOWN = 50  # ranks of the CMC curve


@dataclass(frozen=True, eq=False, kw_only=True)
class Retrieval(Verdict):
    """What one model did on queries and a gallery.

    Attributes:
        queries: number of queries that have a right image; ``gallery``: of images that are searched.
        input: name of the input preset.
    """

    queries: int
    gallery: int
    input: str

    @property
    def cmc(self) -> Floats:
        """The share of queries with a right image among the first k, for k from 1 to 50 or the size of the gallery.

        The cumulative match characteristic, float64 ``[K]``.
        """
        ranks = np.arange(min(_SHOWN, self.gallery))
        curve: Floats = (self.outcomes["first"][:, None] <= ranks).mean(axis=0)
        return curve

    def notes(self) -> dict[str, str]:
        """Return the input."""
        return {"input": self.input}

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, without the outcomes."""
        counts = {"queries": self.queries, "gallery": self.gallery, "input": self.input}
        return {**super().to_json(), **counts, "cmc": self.cmc.tolist()}


class RetrievalJudge(Judge, name="retrieval"):
    """Judges by searching queries in a gallery: rank-1, rank-5, rank-10 and mAP.

    Args:
        query, gallery: folders, see :func:`recipes.faces.sets.searches.read_shots`, or labelled datasets, see
            :func:`recipes.faces.sets.searches.label_shots`. Where both hold the same images, none finds itself.
        batch_size: images run at once.
        bootstrap: sets of people drawn for the intervals; 0: no intervals.
        decides: the figure that decides.
        progress: show how many images are done, as :class:`recipes.faces.Embedder`.

    Raises:
        InputError: a folder cannot be read, or no query has a right image in the gallery.

    >>> verdict = RetrievalJudge("query", "gallery").judge("deployed.onnx")
    >>> verdict.decides, verdict.queries
    ('mAP', 3)
    """

    examples = "queries"

    def __init__(
        self,
        query: Shots | Items | str | os.PathLike[str],
        gallery: Shots | Items | str | os.PathLike[str],
        *,
        batch_size: int = 64,
        bootstrap: int = 0,
        decides: str = "mAP",
        progress: bool = False,
    ) -> None:
        self._query, self._gallery = _shots(query), _shots(gallery)
        self._batch_size, self._bootstrap, self._decides = batch_size, bootstrap, decides
        self._progress = progress
        numbers = {
            person: number
            for number, person in enumerate(sorted({*self._query.people, *self._gallery.people}))
        }
        self._who = np.array([numbers[person] for person in self._query.people])
        self._whose = np.array([numbers[person] for person in self._gallery.people])
        self._junk = np.array([person == JUNK for person in self._gallery.people])
        self._names = np.array(self._gallery.names)
        if not any(self._right(i).any() for i in range(len(self._query))):
            raise InputError(
                "no query has an image of its person in the gallery, by another camera if these are known"
            )

    @classmethod
    def read(cls, path: str) -> RetrievalJudge:
        """Make a judge of ``query,gallery``."""
        query, comma, gallery = path.partition(",")
        if not comma:
            raise InputError(f"retrieval:{path} names one folder: write retrieval:QUERY,GALLERY")
        return cls(query, gallery)

    def outputs(self, size: int) -> Literal["embeddings"]:
        """Take them for embeddings, whatever their size."""
        return "embeddings"

    def judge(
        self, model: Model, input: str | InputPreset = "insightface", embedding: str | None = None
    ) -> Verdict:
        """Search every query, by the cosine similarity of embeddings."""
        preset = input_preset(input)
        embedder = Embedder(model, preset, self._batch_size, embedding, self._progress)
        query, gallery = (
            _unit(embedder.embed(map(shots.image, range(len(shots)))))
            for shots in (self._query, self._gallery)
        )
        first, precision, people = [], [], []
        for start in range(0, len(query), _QUERIES):
            for i, alike in enumerate(query[start : start + _QUERIES] @ gallery.T, start=start):
                counted, right = self._counted(i), self._right(i)
                if right.any():
                    found = search(alike[counted], right[counted])
                    first.append(found[0])
                    precision.append(found[1])
                    people.append(self._who[i])
        ranked = np.array(first)
        outcomes = {f"rank-{k}": ranked < k for k in _RANKS} | {"mAP": np.array(precision)}
        found_all = Verdict.of_means(
            outcomes, self._decides, groups=np.array(people), bootstrap=self._bootstrap
        )
        return Retrieval(
            figures=found_all.figures,
            decides=self._decides,
            outcomes={**found_all.outcomes, "first": ranked},
            subject=f"{len(ranked):,} queries of {len(set(people)):,} people in a gallery of {len(gallery):,} images",
            queries=len(ranked),
            gallery=len(gallery),
            input=self.input_name(preset),
        )

    def _counted(self, query: int) -> npt.NDArray[np.bool_]:
        """Return which gallery images count for a query: no junk, nor its person by its camera, nor itself."""
        camera = self._query.cameras[query]
        seen = (self._whose == self._who[query]) & (self._gallery.cameras == camera) & (camera >= 0)
        counted: npt.NDArray[np.bool_] = ~self._junk & ~seen & (self._names != self._query.names[query])
        return counted

    def _right(self, query: int) -> npt.NDArray[np.bool_]:
        if self._query.people[query] == JUNK:
            return np.zeros(len(self._whose), np.bool_)
        right: npt.NDArray[np.bool_] = self._counted(query) & (self._whose == self._who[query])
        return right

    def right(self, verdict: Verdict) -> npt.NDArray[np.bool_]:
        """Return which queries have a right image first."""
        return np.asarray(verdict.outcomes["rank-1"])

    def example(self, number: int) -> Sequence[Item]:
        """Return a query that has a right image, and the first of these."""
        query = self._answered[number]
        return [self._query.image(query), self._gallery.image(int(np.argmax(self._right(query))))]

    @cached_property
    def _answered(self) -> list[int]:
        return [i for i in range(len(self._query)) if self._right(i).any()]

    def images(self, count: int) -> Sequence[Item]:
        """Return the first queries."""
        return [self._query.image(i) for i in range(min(count, len(self._query)))]

    def sample(self, limit: int) -> RetrievalJudge:
        """Search about ``limit`` images, of as many people as that allows, among each other's."""
        people = sorted(set(self._query.people) - {JUNK})
        total = len(self._query) + len(self._gallery)
        if total <= limit:
            return self
        count = max(2, round(len(people) * limit / total))
        chosen = {people[i] for i in np.linspace(0, len(people) - 1, count).round().astype(int)}
        few = [shots.of(chosen) for shots in (self._query, self._gallery)]
        return RetrievalJudge(*few, batch_size=self._batch_size, decides=self._decides)

    def identity(self) -> str:
        """Return a number for names and contents of all images."""
        parts = [
            [shots.people, shots.cameras, [fingerprint(shots.image(i)) for i in range(len(shots))]]
            for shots in (self._query, self._gallery)
        ]
        return fingerprint([self.name, parts, self._decides])


def search(alike: npt.NDArray[Any], right: npt.NDArray[np.bool_]) -> tuple[int, float]:
    """Return where the first right image stands, from 0, and the average precision.

    Args:
        alike: similarity of each gallery image, ``[G]``.
        right: which are right, at least one, bool ``[G]``.
    """
    hits = np.flatnonzero(right[np.lexsort((right, -alike))])
    return int(hits[0]), float(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise InputError(
            f"the embedding of image {bad[0]} is zero or not finite ({len(bad)} of {len(rows)} are)"
        )
    unit: npt.NDArray[np.float32] = rows / norms
    return unit


def _shots(given: Shots | Items | str | os.PathLike[str]) -> Shots:
    if isinstance(given, Shots):
        return given
    return read_shots(given) if isinstance(given, str | os.PathLike) else label_shots(given)
