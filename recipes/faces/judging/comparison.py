"""Whether two models can share a gallery."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

from recipes.faces.embedding.embedder import Embedder
from recipes.faces.embedding.inputs import InputPreset, input_preset
from recipes.faces.judging.evaluation import FARS, Evaluation, judge_scores
from recipes.faces.judging.judge import Model
from recipes.faces.judging.pairs import choose_folds, embed_pairs
from recipes.faces.judging.protocols import similarity
from recipes.faces.sets.pairs import PairSet, read_pairs
from reparam_kit import InputError


def cross_evaluate(
    enrolled: Model,
    probe: Model,
    pairs: PairSet | str | os.PathLike[str],
    input: str | InputPreset = "insightface",
    probe_input: str | InputPreset | None = None,
    flip: bool = False,
    batch_size: int = 64,
    folds: int | None = None,
    bootstrap: int = 0,
    embedding: str | None = None,
    probe_embedding: str | None = None,
) -> dict[str, Evaluation]:
    """Return whether people enrolled with one model are recognised by another: a gallery need not be enrolled anew.

    ``flip``, ``batch_size``, ``folds`` and ``bootstrap`` are those of :func:`evaluate`.

    Args:
        enrolled: the old model, whose templates are stored: a module, or the path of an ``.onnx`` file.
        probe: the new model.
        pairs: a verification set or its file.
        input: input preset of ``enrolled``.
        probe_input: input preset of ``probe``; None: the same.
        embedding: which output of ``enrolled`` is the embedding, as in :func:`evaluate`.
        probe_embedding: which of ``probe``; None: the same.

    Returns:
        ``"old-old"`` and ``"new-new"``, each model by itself, and ``"new-old"``: each pair twice, once with either
        image enrolled by the old model and the other embedded by the new one.

    Raises:
        InputError: as :func:`evaluate`, or the embeddings of the two models differ in size, and cannot be compared.

    >>> list(cross_evaluate("deployed.onnx", "better.onnx", "lfw.bin"))
    ['old-old', 'new-new', 'new-old']
    """
    name = "the pair set" if isinstance(pairs, PairSet) else str(pairs)
    known = pairs if isinstance(pairs, PairSet) else read_pairs(pairs)
    presets = [input_preset(input), input_preset(input if probe_input is None else probe_input)]
    cut = choose_folds(known, folds)
    old, new = (
        embed_pairs(Embedder(model, preset, batch_size, output), known, name, flip)
        for model, preset, output in zip(
            (enrolled, probe), presets, (embedding, probe_embedding or embedding), strict=True
        )
    )
    size = old.shape[1]
    if size != new.shape[1]:
        raise InputError(
            f"embeddings of {size} and {new.shape[1]} numbers cannot be compared: a new model keeps the gallery only "
            "at the old one's embedding size"
        )

    def figures(scores: npt.NDArray[np.float64], preset: str) -> Evaluation:
        times = len(scores) // len(known)  # a pair's second score stands in the fold of its first
        same, fold = np.tile(known.same, times), np.tile(cut, times)
        return judge_scores(scores, same, fold, FARS, size, preset, flip, bootstrap)

    ours, theirs = (preset.name for preset in presets)
    both = np.concatenate([similarity(old[0::2], new[1::2]), similarity(new[0::2], old[1::2])])
    return {
        "old-old": figures(similarity(old[0::2], old[1::2]), ours),
        "new-new": figures(similarity(new[0::2], new[1::2]), theirs),
        "new-old": figures(both, ours if ours == theirs else f"{ours} and {theirs}"),
    }
