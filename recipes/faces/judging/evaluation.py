"""A model's figures on a verification set."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from recipes.faces.embedding.embedder import Embedder
from recipes.faces.embedding.inputs import InputPreset, input_preset
from recipes.faces.images.decoding import decode_image
from recipes.faces.judging.bootstrap import Interval, bootstrap_intervals
from recipes.faces.judging.protocols import (
    d_prime,
    fold_numbers,
    kfold_accuracy,
    require_both_kinds,
    similarity,
    tar_at_fars,
)
from recipes.faces.sets.pairs import PairSet, read_pairs
from recipes.faces.sets.templates import (
    TemplateSet,
    is_template_set,
    pool_templates,
    read_templates,
    score_templates,
)
from reparam_kit import InputError

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
TEMPLATE_FARS = (*FARS, 1e-5, 1e-6)
_FOLDS = 10


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one model did on one verification set, and how it was asked.

    Attributes:
        pairs: number of pairs; ``genuine`` and ``impostors`` are their parts.
        embedding_size: D.
        input: name of the input preset.
        flip: whether the embedding of the mirrored image was added.
        folds: number of folds of the accuracy.
        folds_by_kind: whether both kinds were dealt out to the folds, because consecutive ones would lack one of them.
        accuracy: mean over the folds, ``0..1``.
        accuracy_std: standard deviation over the folds.
        threshold: mean of the folds' thresholds, a cosine similarity.
        tar_at_far: true accept rate by false accept rate; None where the set has too few impostors to measure it.
        scores: cosine similarity of each pair, float64 ``[pairs]``; with ``same``, bool ``[pairs]``, what
            :func:`recipes.faces.roc` takes.
        d_prime: :func:`recipes.faces.d_prime` of the scores; None where it is not finite.
        accuracy_interval: low and high end of the bootstrap interval, 95 %; None where it was not asked for.
        tar_intervals: the same for each rate of ``tar_at_far`` that could be measured.
    """

    pairs: int
    genuine: int
    impostors: int
    embedding_size: int
    input: str
    flip: bool
    folds: int
    accuracy: float
    accuracy_std: float
    threshold: float
    tar_at_far: dict[float, float | None]
    scores: npt.NDArray[np.float64] = field(repr=False)
    same: npt.NDArray[np.bool_] = field(repr=False)
    d_prime: float | None = None
    accuracy_interval: Interval | None = None
    tar_intervals: dict[float, Interval | None] | None = None
    folds_by_kind: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, without scores and truths; false accept rates are keys such as ``"0.001"``."""
        values = {name: value for name, value in vars(self).items() if name not in ("scores", "same")}
        for name in ("tar_at_far", "tar_intervals"):
            if values[name] is not None:
                values[name] = {f"{far:g}": value for far, value in values[name].items()}
        return values


def read_set(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    detector_score: bool = False,
) -> PairSet | TemplateSet:
    """Read a verification set of either kind: :func:`read_templates` for YTF and IJB, else :func:`read_pairs`.

    Raises:
        UnsafeFileError, InputError: as these; or ``detector_score`` for a set of pairs.
    """
    if is_template_set(path):
        return read_templates(path, images, detector_score)
    if detector_score:
        raise InputError(f"{path} is no IJB set, and has no detector scores")
    return read_pairs(path, images)


def evaluate(
    model: nn.Module | str | os.PathLike[str],
    pairs: PairSet | TemplateSet | str | os.PathLike[str],
    input: str | InputPreset = "insightface",
    flip: bool = False,
    batch_size: int = 64,
    folds: int | None = None,
    bootstrap: int = 0,
    embedding: str | None = None,
    progress: bool = False,
) -> Evaluation:
    """Embed the pairs, score them by cosine similarity and apply the LFW protocol and TAR at FAR.

    Args:
        model: a module, or the path of an ``.onnx`` file (see :class:`Embedder`).
        pairs: a verification set, or what :func:`read_set` takes.
        input: an input preset or its name. Check it (:func:`recipes.faces.compare_inputs`): a wrong one fails nowhere
            and costs accuracy.
        flip: add the embedding of each mirrored image.
        batch_size: images run at once.
        folds: consecutive folds of the accuracy. None: those of the set's makers where it says which they are, else
            ten.
        bootstrap: sets drawn for the intervals (:mod:`recipes.faces.judging.bootstrap`); 0: no intervals.
        embedding, progress: see :class:`Embedder`.

    Raises:
        InputError: model, set or preset cannot be used, or ``folds`` does not fit the number of pairs.
        UnsafeFileError: the set's file names something that a verification set does not hold.
    """
    known = pairs if isinstance(pairs, PairSet | TemplateSet) else read_set(pairs)
    name = "the pair set" if known is pairs else str(pairs)
    preset = input_preset(input)
    cut = choose_folds(known, folds)
    embedder = Embedder(model, preset, batch_size, embedding, progress)
    if isinstance(known, TemplateSet):
        embeddings = pool_templates(embedder, known, flip)
        scores = score_templates(embeddings, known)
    else:
        embeddings = embed_pairs(embedder, known, name, flip)
        scores = similarity(embeddings[0::2], embeddings[1::2])
    fars = TEMPLATE_FARS if isinstance(known, TemplateSet) else FARS
    result = judge(scores, known.same, cut, fars, embeddings.shape[1], preset.name, flip, bootstrap)
    counted = folds is not None or known.folds is None
    return replace(result, folds_by_kind=counted and bool((np.diff(cut) < 0).any()))


def choose_folds(pairs: PairSet | TemplateSet, folds: int | None) -> npt.NDArray[np.int64]:
    """The fold of each pair: ``folds`` consecutive ones, or None for those of the set's makers or else ten.

    Raises:
        InputError: the set cannot be judged, whatever the scores will be: better known before minutes of embedding.
    """
    numbers = fold_numbers(pairs.same, folds or (_FOLDS if pairs.folds is None else pairs.folds))
    require_both_kinds(pairs.same)
    return numbers


def judge(
    scores: npt.NDArray[np.float64],
    same: npt.NDArray[np.bool_],
    folds: npt.NDArray[np.int64],
    fars: Sequence[float],
    embedding_size: int,
    input: str,
    flip: bool,
    bootstrap: int,
) -> Evaluation:
    """The figures of scores that are there already.

    Args:
        scores: ``[N]``.
        same: bool ``[N]``.
        folds: the fold of each pair, ``[N]``.
        fars: false accept rates of ``tar_at_far``.
        embedding_size, input, flip: as :class:`Evaluation`.
        bootstrap: as :func:`evaluate`.

    Raises:
        InputError: a score is not finite.
    """
    accuracy, accuracy_std, thresholds = kfold_accuracy(scores, same, folds)
    separation = d_prime(scores, same)
    tars = zip(fars, tar_at_fars(scores, same, fars), strict=True)
    intervals = bootstrap_intervals(scores, same, folds, fars, bootstrap) if bootstrap else (None, None)
    return Evaluation(
        pairs=len(same),
        genuine=int(same.sum()),
        impostors=int((~same).sum()),
        embedding_size=embedding_size,
        input=input,
        flip=flip,
        folds=len(thresholds),
        accuracy=accuracy,
        accuracy_std=accuracy_std,
        threshold=float(thresholds.mean()),
        tar_at_far={far: None if math.isnan(tar) else tar for far, tar in tars},
        scores=scores,
        same=same,
        d_prime=separation if math.isfinite(separation) else None,
        accuracy_interval=intervals[0],
        tar_intervals=intervals[1],
    )


def embed_pairs(
    embedder: Embedder, pairs: PairSet, name: str = "the pair set", flip: bool = False
) -> npt.NDArray[np.float32]:
    """The embeddings of a set's 2N images, float32 ``[2N, D]``, decoded as they are asked for.

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

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        names = self._pairs.names
        for i, image in enumerate(self._pairs.images):
            place = names[i] if names else f"{self._name}: image {i % 2} of pair {i // 2}"
            yield decode_image(image, place)
