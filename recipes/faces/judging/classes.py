"""Judging by classes: how often a net names the class of an image, first or among the first five.

A classifier is asked for its logits. A net that gives embeddings names the class whose mean embedding is most alike,
the image itself left out of its mean. Which of the two a net is shows in the size of its output: logits are as many as
there are classes.

Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
Psychometrika 1947 (two models on the same images: only those that one of them got right tell; here the exact test).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from recipes.faces.embedding.embedder import Embedder
from recipes.faces.embedding.inputs import InputPreset, input_preset
from recipes.faces.images.items import Item, Items, item_image
from recipes.faces.judging.evaluation import guess
from recipes.faces.judging.judge import Judge, Model
from recipes.faces.judging.verdict import Comparison, Difference, Verdict
from recipes.faces.sets.datasets import read_faces
from recipes.faces.sets.faces import read_labels
from reparam_kit import InputError, fingerprint

Outputs = Literal["auto", "logits", "embeddings"]

_TOP = (1, 5)


@dataclass(frozen=True, eq=False, kw_only=True)
class Classification(Verdict):
    """What one model did on labelled images.

    Attributes:
        images: their number; ``classes`` that of their classes.
        outputs: whether logits were asked, or embeddings held against the mean of each class.
        input: name of the input preset.
    """

    images: int
    classes: int
    outputs: str
    input: str

    def notes(self) -> dict[str, str]:
        """Input, and how the class was found."""
        how = "logits" if self.outputs == "logits" else "embeddings, against the mean of each class"
        return {"input": self.input, "outputs": how}

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, without the outcomes."""
        counts = {
            "images": self.images,
            "classes": self.classes,
            "outputs": self.outputs,
            "input": self.input,
        }
        return {**super().to_json(), **counts}


class ClassesJudge(Judge, name="classes"):
    """Judges by labelled images: top-1 and, of more than five classes, top-5.

    Args:
        images: a labelled set, or what :func:`recipes.faces.read_faces` opens: a folder of classes, a list, a ``.rec``.
            Class ``i`` is the i-th in ascending order, and the logit of that number.
        outputs: what the nets give; ``"auto"`` tells by the size.
        batch_size: images run at once.
        bootstrap: sets of images drawn for the intervals; 0: no intervals.
        decides: the figure that decides.
        classes: number of classes, where the images do not show the highest of them; None: as they do.
        progress: show how many images are done, as :class:`recipes.faces.Embedder`.

    Raises:
        InputError: the set cannot be read, an image has no label, or there are fewer than two classes.

    >>> judge = ClassesJudge("photos")
    >>> judge.judge("deployed.onnx", "imagenet")["top-1"].value
    1.0
    """

    examples = "images"

    def __init__(
        self,
        images: Items | str | os.PathLike[str],
        *,
        outputs: Outputs = "auto",
        batch_size: int = 64,
        bootstrap: int = 0,
        decides: str = "top-1",
        classes: int | None = None,
        progress: bool = False,
    ) -> None:
        self._set: Items = read_faces(images) if isinstance(images, str | os.PathLike) else images
        self._outputs, self._batch_size, self._bootstrap, self._decides = (
            outputs,
            batch_size,
            bootstrap,
            decides,
        )
        self._progress = progress
        self._labels = read_labels(self._set)
        unknown = np.flatnonzero(self._labels < 0)
        if len(unknown):
            raise InputError(
                f"image {unknown[0]} has no label ({len(unknown)} of {len(self._set)} have none)"
            )
        self._classes = classes or int(self._labels.max(initial=-1)) + 1
        if len(np.unique(self._labels)) < 2:
            raise InputError(
                f"{len(self._set)} images show {len(np.unique(self._labels))} classes: two are the fewest"
            )

    def judge(
        self, model: Model, input: str | InputPreset = "insightface", embedding: str | None = None
    ) -> Verdict:
        """Ask the model for the class of each image."""
        preset = input_preset(input)
        rows = Embedder(model, preset, self._batch_size, embedding, self._progress).embed(self._images())
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise InputError(
                f"the output for image {bad[0]} is not finite ({len(bad)} of {len(rows)} are not)"
            )
        outputs = self._outputs
        if outputs == "auto":
            outputs = "logits" if rows.shape[1] == self._classes else "embeddings"
        if outputs == "logits" and rows.shape[1] < self._classes:
            raise InputError(f"{rows.shape[1]} logits cannot name {self._classes} classes")
        scores, truth = (rows, self._labels) if outputs == "logits" else by_class_means(rows, self._labels)
        place = places(scores, truth)
        top = {f"top-{k}": place < k for k in _TOP if k == 1 or k < scores.shape[1]}
        found = Verdict.of_means(top, self._decides, bootstrap=self._bootstrap)
        share = np.bincount(truth).max() / len(truth)
        return Classification(
            figures=found.figures,
            decides=self._decides,
            outcomes=found.outcomes,
            subject=f"{len(place):,} images of {len(np.unique(truth)):,} classes",
            guessing=guess(share, len(truth)) if self._decides == "top-1" else None,
            images=len(place),
            classes=self._classes,
            outputs=outputs,
            input=self.input_name(preset),
        )

    def compare(self, before: Verdict, after: Verdict) -> Comparison:
        """Compare two models on the same images: intervals by drawing images, probabilities by McNemar's exact test."""
        drawn = super().compare(before, after)
        differences = []
        for difference in drawn.differences:
            name = difference.before.name
            chance = mcnemar(before.outcomes[name], after.outcomes[name])
            differences.append(Difference(difference.before, difference.after, difference.interval, chance))
        return replace(drawn, differences=tuple(differences), method=f"{drawn.method}; McNemar's exact test")

    def outputs(self, size: int) -> Literal["embeddings", "logits"] | None:
        """Take them as it was told; else for logits, where they are as many as the classes."""
        if self._outputs != "auto":
            return self._outputs
        return "logits" if size == self._classes else None

    def example(self, number: int) -> Sequence[Item]:
        """Return the image of that number; none where images of classes with one image were left out."""
        _, counts = np.unique(self._labels, return_counts=True)
        return [self._image(number)] if counts.min() > 1 or self._outputs == "logits" else []

    def images(self, count: int) -> Sequence[Item]:
        """Return the first images of the set."""
        return [self._image(i) for i in range(min(count, len(self._set)))]

    def sample(self, limit: int) -> ClassesJudge:
        """Judge about ``limit`` images: as many of each class, of classes spread evenly if they are many."""
        order = np.argsort(self._labels, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(self._labels[order])) + 1)
        each = max(2, limit // len(groups))
        shown = np.unique(np.linspace(0, len(groups) - 1, max(2, limit // each)).round().astype(int))
        chosen = np.concatenate([groups[i][:each] for i in shown])
        if len(chosen) >= len(self._labels):
            return self
        subset: Any = torch.utils.data.Subset(self._set, np.sort(chosen).tolist())  # type: ignore[arg-type]
        return ClassesJudge(
            subset,
            outputs=self._outputs,
            batch_size=self._batch_size,
            decides=self._decides,
            classes=self._classes,
        )

    def identity(self) -> str:
        """Return every image and its label."""
        return fingerprint([self.name, self._content, self._outputs, self._decides, self._classes])

    @cached_property
    def _content(self) -> list[str]:
        return [fingerprint([self._image(i), int(label)]) for i, label in enumerate(self._labels)]

    def _images(self) -> Iterator[torch.Tensor]:
        return map(self._image, range(len(self._set)))

    def _image(self, index: int) -> torch.Tensor:
        return item_image(self._set[index], f"image {index}")


def by_class_means(
    rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Cosine similarity of each image to the mean of each class, without the image itself.

    Args:
        rows: embeddings ``[N, D]``.
        labels: ``[N]``.

    Returns:
        Similarities float64 ``[M, C]`` and the column of the own class, int64 ``[M]``, of the M images whose class has
        another one.

    Raises:
        InputError: an embedding is zero, or no class has two images.
    """
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True).clip(1e-300)
    if not np.all(np.linalg.norm(unit, axis=1) > 0.5):
        raise InputError("an embedding is zero, and has no direction")
    own = np.unique(labels, return_inverse=True)[1]
    counts = np.bincount(own)
    sums = np.stack([np.bincount(own, column, len(counts)) for column in unit.T], axis=1)
    tested = np.flatnonzero(counts[own] > 1)
    if not len(tested):
        raise InputError(
            f"{len(rows)} images show {len(counts)} classes: embeddings need classes of several images"
        )
    own, unit = own[tested], unit[tested]
    others = sums[own] - unit
    scores = unit @ (sums / np.linalg.norm(sums, axis=1, keepdims=True).clip(1e-300)).T
    scores[np.arange(len(own)), own] = np.einsum("nd,nd->n", unit, others) / np.linalg.norm(
        others, axis=1
    ).clip(1e-300)
    return scores, own


def places(scores: npt.NDArray[Any], truth: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many other classes score as high as the true one, ``[N]``: 0 where it is first, and alone."""
    own = scores[np.arange(len(truth)), truth]
    found: npt.NDArray[np.int64] = (scores >= own[:, None]).sum(axis=1) - 1
    return found


def mcnemar(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """Return the exact two-sided probability that two models differ by chance, of what each got right, bool ``[N]``."""
    before, after = np.asarray(before, np.bool_), np.asarray(after, np.bool_)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    count = gained + lost
    if not count:
        return 1.0
    k = torch.arange(min(gained, lost) + 1, dtype=torch.float64)
    whole = torch.tensor(count + 1.0, dtype=torch.float64)
    logs = whole.lgamma() - (k + 1).lgamma() - (whole - k).lgamma() - count * np.log(2)
    return min(1.0, 2 * float(logs.logsumexp(0).exp()))
