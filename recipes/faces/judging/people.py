"""Judging by people: all pairs of labelled images, thresholds of a mixed population, and searches of a gallery."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from recipes.faces.embedding.embedder import Embedder
from recipes.faces.embedding.inputs import InputPreset, input_preset
from recipes.faces.images.items import Item, Items
from recipes.faces.judging.all_pairs import Ints, alike_pairs, unit_rows
from recipes.faces.judging.bootstrap import interval, probability_of_chance
from recipes.faces.judging.evaluation import SEPARATION
from recipes.faces.judging.identification import parted
from recipes.faces.judging.judge import COMPARED, Judge, Model
from recipes.faces.judging.portraits import Portraits, require_one_size, require_pairs
from recipes.faces.judging.recognition import Asked, Recognition, shown_figure, sound_of
from recipes.faces.judging.verdict import Comparison, Figure, Verdict, comparison, require_same
from reparam_kit import InputError, fingerprint, onnx_fingerprint

_DRAWN, _IMAGES, _LEFT_OUT, _FOUND = "drawn", "images of each person", "left out", "came first"


@dataclass(frozen=True, eq=False, kw_only=True)
class PeopleVerdict(Verdict):
    """What one model did on labelled people.

    Attributes:
        images, people: their numbers.
        impostors: number of faces whose pairs set the thresholds of a mixed population; 0: none were given.
        left_out: number of their pairs that a teacher takes for one person.
        input: name of the input preset.
    """

    images: int
    people: int
    impostors: int
    left_out: int
    input: str

    @property
    def separation(self) -> Figure:
        """d' uses every score, where TAR sees the few near a threshold."""
        return self[SEPARATION]

    def at_chance(self) -> bool:
        """Return whether guessing could part people as well: d' up to three standard errors, of so many people.

        Not pairs are counted, since those of one person are alike.
        """
        several = int((self.outcomes[_IMAGES] > 1).sum())
        return bool(self.separation.goodness <= 3 / math.sqrt(several))

    def notes(self) -> dict[str, str]:
        """Return the input, and how many pairs were left out."""
        return {"input": self.input, **({"pairs left out": f"{self.left_out:,}"} if self.impostors else {})}

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, without the outcomes."""
        counts = ("images", "people", "impostors", "left_out", "input")
        return {**super().to_json(), **{name: getattr(self, name) for name in counts}}


@dataclass(frozen=True, eq=False)
class Alike:
    """A model that says which pairs of impostors are of one person, and above which similarity (None: of its own)."""

    model: Model
    preset: InputPreset
    embedding: str | None
    above: float | None

    def identity(self) -> str:
        """Return a number for it."""
        model = self.model
        said = (
            [type(model).__qualname__, dict(model.state_dict())]
            if isinstance(model, nn.Module)
            else onnx_fingerprint(Path(model))
        )
        return fingerprint([said, self.preset.name, self.embedding, self.above])


class PeopleJudge(Judge, name="people"):
    """Judges by all pairs of labelled people, at thresholds of their own and of a mixed population.

    Figures are TAR at each FAR from 1e-2 down to the last that accepts an impostor pair, d', and of searching each
    image in a gallery of one image a person (:mod:`recipes.faces.judging.identification`) rank-1 and TPIR. Intervals
    are over people, see :mod:`recipes.faces.judging.recognition`; a rate that fewer than ten impostor pairs lie above
    has none. Two models are compared on the same people drawn.

    Args:
        people: a labelled set ``(image uint8 [3, H, W] RGB, label, ...)``, or what :func:`recipes.faces.read_faces`
            opens. Images of a negative label are passed over: it is not known whose they are.
        impostors: such a set of other faces, nearly all of different people, with or without labels. Their pairs set
            thresholds besides: those that a door meets where people are of all kinds.
        alike: a model, or embeddings of ``impostors`` (``[M, D]``): pairs of ``impostors`` that it takes for one person
            are left out. None: no pair is left out; in a run of TSMR, the first teacher says it.
        alike_input, alike_embedding: input preset of that model, and which of its outputs is the embedding.
        alike_above: the similarity from which on it takes them so. None, for a model alone: where nine in ten genuine
            pairs of ``people`` lie above, and fewer impostor pairs than at the lowest FAR that can decide.
        batch_size: images run at once.
        bootstrap: sets of people drawn for intervals and comparisons; 0: neither.
        decides: the figure that decides. None: TAR at the lowest FAR that at least 30 impostor pairs lie above, of the
            mixed ones where there are; d' where there is no such rate.
        progress: show how many images are done, as :class:`recipes.faces.Embedder`.

    Raises:
        InputError: a set cannot be read, images differ in size, or fewer than two people are shown, or nobody twice; to
            judge raises it too where nothing can be measured by ``decides``.

    >>> judge = PeopleJudge("people.rec", "impostors.rec", alike="teacher.onnx")
    >>> before, after = judge.judge("deployed.onnx", "imagenet"), judge.judge("better.onnx", "imagenet")
    >>> judge.compare(before, after).decides
    "d'"
    """

    examples = "people"
    asked = "searches"

    def __init__(
        self,
        people: Portraits | Items | str | os.PathLike[str],
        impostors: Portraits | Items | str | os.PathLike[str] | None = None,
        *,
        alike: Model | npt.NDArray[Any] | None = None,
        alike_input: str | InputPreset = "insightface",
        alike_embedding: str | None = None,
        alike_above: float | None = None,
        batch_size: int = 64,
        bootstrap: int = COMPARED,
        decides: str | None = None,
        progress: bool = False,
    ) -> None:
        self._people = Portraits.read(people)
        require_pairs(self._people)
        self._others = None if impostors is None else Portraits.read(impostors, strangers=True)
        if self._others is not None:
            require_one_size(self._people, self._others)
        if alike is not None and self._others is None:
            raise InputError("alike says which impostors are of one person, and no impostors are given")
        self._alike: Alike | None = None
        self._told: Ints | None = None
        if isinstance(alike, np.ndarray):
            self._told = self._read(alike, alike_above)
        elif alike is not None:
            self._alike = Alike(alike, input_preset(alike_input), alike_embedding, alike_above)
        self._batch_size, self._bootstrap, self._decides = batch_size, bootstrap, decides
        self._separation_alone = False
        self._progress = progress

    @classmethod
    def read(cls, path: str) -> PeopleJudge:
        """Make a judge of ``people`` or ``people,impostors``."""
        people, comma, impostors = path.rpartition(",")
        return cls(people, impostors) if comma and not Path(path).exists() else cls(path)

    def outputs(self, size: int) -> Literal["embeddings"]:
        """Take them for embeddings, whatever their size."""
        return "embeddings"

    def judge(
        self, model: Model, input: str | InputPreset = "insightface", embedding: str | None = None
    ) -> PeopleVerdict:
        """Embed all images, compare all pairs and search each image."""
        preset = input_preset(input)
        left_out = self._left_out
        rows, others = self._embedded(model, preset, embedding)
        mixed = None if self._others is None or others is None else (others, self._others.people, left_out)
        found = Recognition.of((rows, self._people.people), mixed)
        asked = found.asked()
        values = found.figures(asked)
        drawn = None
        if self._bootstrap:
            drawn = found.resampled(asked, self._bootstrap, separation_alone=self._separation_alone)
        figures = tuple(shown_figure(asked, i, values, drawn) for i in range(len(values)))
        verdict = PeopleVerdict(
            figures=figures,
            decides=self._decides or asked.decisive,
            outcomes={
                _IMAGES: self._people.per_person,
                _LEFT_OUT: left_out,
                _FOUND: found.searches.found,
                **({} if drawn is None else {_DRAWN: drawn.astype(np.float32)}),
            },
            subject=self._subject(asked),
            images=len(self._people),
            people=len(self._people.per_person),
            impostors=0 if self._others is None else len(self._others),
            left_out=len(left_out),
            input=self.input_name(preset),
        )
        if self._decides and verdict.decides != SEPARATION and verdict.deciding.value is None:
            raise InputError(f"{verdict.decides} cannot decide: it is {verdict.deciding.shown()}")
        return verdict

    def compare(self, before: Verdict, after: Verdict) -> Comparison:
        """Compare two models on the same people, and the same impostors, drawn."""
        require_same(before, after, [_IMAGES, _LEFT_OUT])
        found = {}
        if _DRAWN in before.outcomes and _DRAWN in after.outcomes:
            drawn = after.outcomes[_DRAWN].astype(np.float64) - before.outcomes[_DRAWN]
            for figure, column in zip(before.figures, drawn.T, strict=True):
                sound = sound_of(column)
                if figure.interval is not None and sound is not None:
                    found[figure.name] = (interval(sound), probability_of_chance(sound))
        what = "people, and impostors apart from them," if self._others is not None else "people"
        return comparison(before, after, found, f"{what} drawn {self._bootstrap:,} times", self.examples)

    def right(self, verdict: Verdict) -> npt.NDArray[np.bool_] | None:
        """Return which searched images are found: their person comes first."""
        return verdict.outcomes.get(_FOUND)

    def example(self, number: int) -> Sequence[Item]:
        """Return a searched image, and that of its person in the gallery."""
        gallery, searched = parted(self._people.people)
        image = searched[number]
        return [self._people[int(one)] for one in (image, gallery[self._people.people[image]])]

    def images(self, count: int) -> list[npt.NDArray[np.uint8]]:
        """Return the first images of people."""
        return [image.permute(1, 2, 0).numpy() for image in islice(self._people, count)]

    def sample(self, limit: int) -> PeopleJudge:
        """Judge about ``limit`` images of as many people as have them, without impostors and intervals."""
        few = copy.copy(self)
        few._people, few._others = self._people.some(limit), None
        few._alike, few._told = None, None
        few._bootstrap, few._decides = 0, None
        few.__dict__.pop("_left_out", None)
        return few

    def comparable(self) -> PeopleJudge:
        """Return this judge, with people drawn for the interval of what separates, and comparisons by it."""
        other = copy.copy(self)
        other._bootstrap, other._separation_alone = self._bootstrap or COMPARED, True
        return other

    def part(self, limit: int) -> PeopleJudge:
        """Judge about ``limit`` images, as large a part of the people as of the impostors, as this judge does; by its
        own figure, since one that is asked for may not be measurable.
        """
        share = limit / (len(self._people) + len(self._others or ()))
        if share >= 1:
            return self
        few = copy.copy(self)
        few.__dict__.pop("_left_out", None)
        few._people, few._decides = self._people.some(round(share * len(self._people))), None
        if self._others is not None:
            few._others = self._others.some(round(share * len(self._others)))
            kept = np.isin(self._others.chosen, few._others.chosen)
            pairs = np.where(kept, kept.cumsum() - 1, -1)[self._left_out]
            few._alike, few._told = None, pairs[(pairs >= 0).all(axis=1)]
        return few

    def with_teacher(self, teacher: Model, input: str | InputPreset, embedding: str | None = None) -> Judge:
        """Return a judge that leaves out the pairs of impostors that ``teacher`` takes for one person, unless another
        does.
        """
        if self._others is None or self._alike is not None or self._told is not None:
            return self
        taught = copy.copy(self)
        taught._alike = Alike(teacher, input_preset(input), embedding, None)
        taught.__dict__.pop("_left_out", None)
        return taught

    def identity(self) -> str:
        """Return every image, whose each is, and who says which impostors are alike."""
        others = None if self._others is None else self._others.content
        alike = None if self._alike is None else self._alike.identity()
        said = [alike, self._told, self._decides, self._bootstrap]
        return fingerprint([self.name, self._people.content, others, *said])

    @cached_property
    def _left_out(self) -> Ints:
        """The pairs of impostors that are taken for one person, int64 ``[E, 2]``."""
        if self._told is not None:
            return self._told
        if self._alike is None:
            return np.empty((0, 2), np.int64)
        rows, others = self._teaching
        above = self._alike.above
        if above is None:
            above = Recognition.of((rows, self._people.people), None).alike_from()
        return alike_pairs(others, above)  # type: ignore[arg-type]

    def _embedded(
        self, model: Model, preset: InputPreset, embedding: str | None
    ) -> tuple[Tensor, Tensor | None]:
        """Embeddings of length 1 of the people and of the impostors; of a file that says what is alike once."""
        alike = self._alike
        asked = (model, preset, embedding)
        if (
            alike
            and asked == (alike.model, alike.preset, alike.embedding)
            and not isinstance(model, nn.Module)
        ):
            return self._teaching
        return self._embed(model, preset, embedding)

    @cached_property
    def _teaching(self) -> tuple[Tensor, Tensor | None]:
        assert self._alike is not None
        return self._embed(self._alike.model, self._alike.preset, self._alike.embedding)

    def _embed(
        self, model: Model, preset: InputPreset, embedding: str | None
    ) -> tuple[Tensor, Tensor | None]:
        embedder = Embedder(model, preset, self._batch_size, embedding, self._progress)
        rows = unit_rows(embedder.embed(self._people))
        return rows, None if self._others is None else unit_rows(embedder.embed(self._others))

    def _read(self, rows: npt.NDArray[Any], above: float | None) -> Ints:
        """Return the pairs more alike than ``above``, by embeddings of the impostors that are given."""
        if rows.ndim != 2 or len(rows) != len(self._others or ()):
            raise InputError(
                f"alike has the shape {list(rows.shape)}: embeddings of {len(self._others or ()):,} impostors are "
                f"[{len(self._others or ())}, D]"
            )
        if above is None:
            raise InputError("embeddings that say which impostors are alike need alike_above, a similarity")
        return alike_pairs(unit_rows(rows), above)

    def _subject(self, asked: Asked) -> str:
        people = self._people
        counts = people.per_person
        genuine = int((counts * (counts - 1)).sum()) // 2
        shown = f"{len(people):,} images of {len(counts):,} people: {genuine:,} genuine, {asked.own:,} impostor pairs"
        if people.passed_over:
            shown += f" ({people.passed_over:,} more images of nobody known)"
        if self._others is not None:
            shown += f"; mixed: thresholds of {asked.mixed:,} pairs of {len(self._others):,} others"
        return shown
