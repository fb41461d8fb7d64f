"""Judging by pairs: verification sets, the accuracy of LFW and TAR at FAR."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from recipes.faces.embedding.embedder import Embedder
from recipes.faces.embedding.inputs import InputPreset, input_preset
from recipes.faces.images.items import Item, item_image
from recipes.faces.judging.bootstrap import interval, probability_of_chance, resampled_pairs
from recipes.faces.judging.evaluation import ACCURACY, FARS, Evaluation, judge_scores
from recipes.faces.judging.judge import COMPARED, Judge, Model
from recipes.faces.judging.protocols import (
    fold_numbers,
    require_both_kinds,
    similarity,
)
from recipes.faces.judging.verdict import Comparison, Verdict, comparison, require_same
from recipes.faces.sets.pairs import PairSet, read_pairs
from recipes.faces.sets.templates import (
    Crops,
    TemplateSet,
    is_template_set,
    pool_templates,
    read_templates,
    score_templates,
)
from reparam_kit import InputError, fingerprint

TEMPLATE_FARS = (*FARS, 1e-5, 1e-6)
_FOLDS = 10
_MANY = 100_000  # pairs, from which on fewer sets are drawn for a comparison
_FEWER = 200


def read_set(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    detector_score: bool = False,
) -> PairSet | TemplateSet:
    """Read a verification set of either kind: :func:`read_templates` for YTF and IJB, else :func:`read_pairs`.

    Raises:
        UnsafeFileError, InputError: as these; or ``detector_score`` for a set of pairs.

    >>> type(read_set("lfw.bin")).__name__
    'PairSet'
    """
    if is_template_set(path):
        return read_templates(path, images, detector_score)
    if detector_score:
        raise InputError(f"{path} is no IJB set, and has no detector scores")
    return read_pairs(path, images)


class PairsJudge(Judge, name="pairs"):
    """Judges by a verification set: pairs of images, or of templates.

    Args:
        pairs: a verification set, or what :func:`read_set` takes.
        flip: add the embedding of each mirrored image.
        batch_size: images run at once.
        folds: consecutive folds of the accuracy. None: those of the set's makers where it says which they are, else
            ten.
        bootstrap: sets drawn for the intervals (:mod:`recipes.faces.judging.bootstrap`); 0: no intervals.
        decides: the figure that decides.
        progress: show how many images are done, as :class:`recipes.faces.Embedder`.

    Raises:
        InputError: the set cannot be read; to judge also raises it where ``folds`` does not fit the number of pairs.
        UnsafeFileError: the set's file names something that a verification set does not hold.

    >>> judge = PairsJudge("lfw.bin")
    >>> before, after = judge.judge("deployed.onnx"), judge.judge("better.onnx")
    >>> comparison = judge.compare(before, after)
    >>> comparison.decides, comparison.deciding.interval is not None
    ('accuracy', True)
    """

    examples = "pairs"

    def __init__(
        self,
        pairs: PairSet | TemplateSet | str | os.PathLike[str],
        *,
        flip: bool = False,
        batch_size: int = 64,
        folds: int | None = None,
        bootstrap: int = 0,
        decides: str = ACCURACY,
        progress: bool = False,
    ) -> None:
        self.pairs = pairs if isinstance(pairs, PairSet | TemplateSet) else read_set(pairs)
        self._where = "the pair set" if self.pairs is pairs else str(pairs)
        self._options = {
            "flip": flip,
            "batch_size": batch_size,
            "folds": folds,
            "bootstrap": bootstrap,
            "decides": decides,
        }
        self._flip, self._batch_size, self._bootstrap, self._decides = flip, batch_size, bootstrap, decides
        self._progress = progress
        self._asked = folds

    def outputs(self, size: int) -> Literal["embeddings"]:
        """Take them for embeddings, whatever their size."""
        return "embeddings"

    def judge(
        self, model: Model, input: str | InputPreset = "insightface", embedding: str | None = None
    ) -> Evaluation:
        """Embed the pairs, score them by cosine similarity and apply the LFW protocol and TAR at FAR.

        Check the input (:func:`recipes.faces.find_input`): a wrong one raises no error and costs accuracy.
        """
        preset = input_preset(input)
        folds = choose_folds(self.pairs, self._asked)
        embedder = Embedder(model, preset, self._batch_size, embedding, self._progress)
        if isinstance(self.pairs, TemplateSet):
            embeddings = pool_templates(embedder, self.pairs, self._flip)
            scores = score_templates(embeddings, self.pairs)
        else:
            embeddings = embed_pairs(embedder, self.pairs, self._where, self._flip)
            scores = similarity(embeddings[0::2], embeddings[1::2])
        found = judge_scores(
            scores,
            self.pairs.same,
            folds,
            TEMPLATE_FARS if isinstance(self.pairs, TemplateSet) else FARS,
            embeddings.shape[1],
            preset.name,
            self._flip,
            self._bootstrap,
            self._decides,
        )
        counted = self._asked is not None or self.pairs.folds is None
        return replace(found, folds_by_kind=counted and bool((np.diff(folds) < 0).any()))

    def compare(self, before: Verdict, after: Verdict) -> Comparison:
        """Compare two models on the same pairs, drawn with replacement within each fold and kind.

        The protocol runs for both on every set drawn, each with its own thresholds. Of more than 100,000 pairs, 200
        sets are drawn, else 1,000.
        """
        require_same(before, after, ["same", "folds"])
        if not isinstance(before, Evaluation) or not isinstance(after, Evaluation):
            raise InputError("a judge of pairs compares what it found itself")
        sets = self._bootstrap or (COMPARED if len(before.same) <= _MANY else _FEWER)
        ours, theirs = resampled_pairs(
            [before.scores, after.scores], before.same, before.outcomes["folds"], before.fars, sets
        )
        with np.errstate(invalid="ignore"):  # d' of both may be infinite
            differences = theirs - ours
        found = {
            figure.name: (interval(drawn), probability_of_chance(drawn))
            for figure, drawn in zip(before.figures, differences.T, strict=True)
            if np.isfinite(drawn).all()
        }
        return comparison(
            before, after, found, f"pairs drawn within fold and kind, {sets:,} times", self.examples
        )

    def right(self, verdict: Verdict) -> npt.NDArray[np.bool_] | None:
        """Return which pairs lie on their side of the threshold, the mean of the folds'."""
        if not isinstance(verdict, Evaluation):
            return None
        right: npt.NDArray[np.bool_] = (verdict.scores > verdict.threshold) == verdict.same
        return right

    def example(self, number: int) -> Sequence[Item]:
        """Return both images of a pair; none of templates."""
        return (
            [] if isinstance(self.pairs, TemplateSet) else [self.pairs.images[2 * number + i] for i in (0, 1)]
        )

    def images(self, count: int) -> Sequence[Item]:
        """Return the first images of the set."""
        shown = (
            Crops(self.pairs) if isinstance(self.pairs, TemplateSet) else _Decoded(self.pairs, self._where)
        )
        return list(islice(shown, count))

    def sample(self, limit: int) -> PairsJudge:
        """Judge at most ``limit`` of the pairs, spread evenly over the set; of templates, all."""
        if isinstance(self.pairs, TemplateSet):
            return self
        few = self.pairs.sample(limit)
        return PairsJudge(few, **{**self._options, "folds": min(_FOLDS, len(few) // 2)})  # type: ignore[arg-type]

    def part(self, limit: int) -> Judge:
        """Judge at most ``limit`` of the pairs; where there are no more, as this judge does."""
        return super().part(limit) if len(self.pairs.same) > limit else self

    def identity(self) -> str:
        """Images, truths and folds of pairs; of templates, the names of the files in place of what is in them."""
        known = self.pairs
        if isinstance(known, TemplateSet):
            parts: Mapping[str, Any] = {**vars(known), "files": [str(file) for file in known.files]}
        else:
            given = (known.images[i] for i in range(len(known.images)))
            shown = [image if isinstance(image, bytes) else item_image(image, "an image") for image in given]
            parts = {"images": shown, "same": known.same}
        return fingerprint([self.name, parts, known.folds, self._asked, self._flip, self._decides])


def evaluate(
    model: Model,
    pairs: PairSet | TemplateSet | str | os.PathLike[str],
    input: str | InputPreset = "insightface",
    flip: bool = False,
    batch_size: int = 64,
    folds: int | None = None,
    bootstrap: int = 0,
    embedding: str | None = None,
    progress: bool = False,
) -> Evaluation:
    """Judge one model by one verification set: :class:`PairsJudge`, which takes the other arguments.

    Args:
        model: a module, or the path of an ``.onnx`` file (see :class:`Embedder`).
        pairs: a verification set, or what :func:`read_set` takes.
        input: an input preset or its name. Check it (:func:`recipes.faces.find_input`): a wrong one raises no error
            and costs accuracy.
        embedding, progress: see :class:`Embedder`.

    Raises:
        InputError: model, set or preset cannot be used, or ``folds`` does not fit the number of pairs.
        UnsafeFileError: the set's file names something that a verification set does not hold.

    >>> evaluation = evaluate("deployed.onnx", "lfw.bin", input="insightface", folds=5)
    >>> evaluation.pairs, 0 <= evaluation.accuracy <= 1
    (20, True)
    """
    judge = PairsJudge(
        pairs, flip=flip, batch_size=batch_size, folds=folds, bootstrap=bootstrap, progress=progress
    )
    return judge.judge(model, input, embedding)


def choose_folds(pairs: PairSet | TemplateSet, folds: int | None) -> npt.NDArray[np.int64]:
    """Return the fold of each pair: ``folds`` consecutive ones, or None for those of the set's makers or else ten.

    Raises:
        InputError: the set cannot be judged, whatever the scores will be: better known before minutes of embedding.
    """
    numbers = fold_numbers(pairs.same, folds or (_FOLDS if pairs.folds is None else pairs.folds))
    require_both_kinds(pairs.same)
    return numbers


def embed_pairs(
    embedder: Embedder, pairs: PairSet, name: str = "the pair set", flip: bool = False
) -> npt.NDArray[np.float32]:
    """Return the embeddings of a set's 2N images, float32 ``[2N, D]``, decoded as they are asked for.

    Raises:
        InputError: as :meth:`Embedder.embed`; an image cannot be decoded (the message calls the set ``name``).
    """
    return embedder.embed(_Decoded(pairs, name), flip)


class _Decoded:
    """The images of a set, decoded as they are asked for."""

    def __init__(self, pairs: PairSet, name: str) -> None:
        self._pairs = pairs
        self._name = name

    def __len__(self) -> int:
        return len(self._pairs.images)

    def __iter__(self) -> Iterator[Tensor]:
        return (self._pairs.image(i, self._name) for i in range(len(self)))
