"""A model's figures on a verification set."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from recipes.faces.embed import Embedder
from recipes.faces.images import decode_image
from recipes.faces.inputs import InputPreset, input_preset
from recipes.faces.pairs import PairSet, read_pairs
from recipes.faces.protocols import kfold_accuracy, similarity, tar_at_far

FARS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one model did on one verification set, and how it was asked.

    Attributes:
        pairs: number of pairs; ``genuine`` and ``impostors`` are their parts.
        embedding_size: D.
        input: name of the input preset.
        flip: whether the embedding of the mirrored image was added.
        folds: number of folds of the accuracy.
        accuracy: mean over the folds, ``0..1``.
        accuracy_std: standard deviation over the folds.
        threshold: mean of the folds' thresholds, a cosine similarity.
        tar_at_far: true accept rate by false accept rate; None where the set has too few impostors to measure it.
        scores: cosine similarity of each pair, float64 ``[pairs]``; with ``same``, bool ``[pairs]``, what
            :func:`recipes.faces.roc` takes.
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

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, without scores and truths; false accept rates are keys such as ``"0.001"``."""
        values = {name: value for name, value in vars(self).items() if name not in ("scores", "same")}
        return values | {"tar_at_far": {f"{far:g}": tar for far, tar in self.tar_at_far.items()}}


def evaluate(
    model: nn.Module | str | os.PathLike[str],
    pairs: PairSet | str | os.PathLike[str],
    input: str | InputPreset = "insightface",
    flip: bool = False,
    batch_size: int = 64,
    folds: int = 10,
) -> Evaluation:
    """Embed the pairs, score them by cosine similarity and apply the LFW protocol and TAR at FAR.

    Args:
        model: a module, or the path of an ``.onnx`` file (see :class:`Embedder`).
        pairs: a verification set or its ``.bin`` file.
        input: an input preset or its name. Check it: a wrong one fails nowhere and costs accuracy.
        flip: add the embedding of each mirrored image.
        batch_size: images run at once.
        folds: consecutive folds of the accuracy. Ten for sets whose makers cut them into ten.

    Raises:
        InputError: model, set or preset cannot be used, or ``folds`` does not fit the number of pairs.
        UnsafeFileError: the set's file names something that a verification set does not hold.
    """
    name = "the pair set" if isinstance(pairs, PairSet) else str(pairs)
    pairs = pairs if isinstance(pairs, PairSet) else read_pairs(pairs)
    preset = input if isinstance(input, InputPreset) else input_preset(input)
    # Before minutes of embedding: that the set can be judged does not depend on the scores.
    _judge(np.zeros(len(pairs)), pairs.same, folds)
    embedder = Embedder(model if isinstance(model, nn.Module) else Path(model), preset, batch_size)
    embeddings = embedder.embed(_Decoded(pairs.images, name), flip)
    scores = similarity(embeddings[0::2], embeddings[1::2])
    accuracy, accuracy_std, threshold, tars = _judge(scores, pairs.same, folds)
    genuine = int(pairs.same.sum())
    return Evaluation(
        pairs=len(pairs),
        genuine=genuine,
        impostors=len(pairs) - genuine,
        embedding_size=embeddings.shape[1],
        input=preset.name,
        flip=flip,
        folds=folds,
        accuracy=accuracy,
        accuracy_std=accuracy_std,
        threshold=threshold,
        tar_at_far=tars,
        scores=scores,
        same=pairs.same,
    )


def _judge(
    scores: npt.NDArray[np.float64], same: npt.NDArray[np.bool_], folds: int
) -> tuple[float, float, float, dict[float, float | None]]:
    accuracy, accuracy_std, thresholds = kfold_accuracy(scores, same, folds)
    tars = {far: tar_at_far(scores, same, far) for far in FARS}
    measured = {far: None if math.isnan(tar) else tar for far, tar in tars.items()}
    return accuracy, accuracy_std, float(thresholds.mean()), measured


class _Decoded:
    """The images of a set, decoded as they are asked for."""

    def __init__(self, images: list[bytes], name: str) -> None:
        self._images = images
        self._name = name

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        for i, image in enumerate(self._images):
            yield decode_image(image, f"{self._name}: image {i % 2} of pair {i // 2}")
