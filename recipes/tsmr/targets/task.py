"""What the numbers are that nets give of an image, and what becomes of them before a loss compares them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.tsmr.choices import TaskName
from reparam_kit import InputError

_LARGEST = 65504.0  # in float16, which tables hold
_SMALLEST = 1e-30  # probability whose logarithm is taken
_SUM = 0.01  # by which the probabilities of a net in half precision may miss 1


@dataclass(frozen=True)
class Task:
    """Embeddings, of which angles count; logits, a number for each class; or maps ``[N, C, H, W]``.

    Attributes:
        name: of ``TSMRConfig.task``; "auto" stands for embeddings until it is found out.
    """

    name: TaskName = "embeddings"

    @property
    def unit(self) -> bool:
        """Whether a teacher's rows have length 1, and are mapped to and from the student's space."""
        return self.name in ("auto", "embeddings")

    @property
    def maps(self) -> bool:
        """Whether a net gives maps, and not rows."""
        return self.name == "maps"

    @property
    def word(self) -> str:
        """What messages call one net's output for one image."""
        return {"logits": "output", "maps": "map"}.get(self.name, "embedding")

    def student(self, output: Tensor) -> Tensor:
        """Return a net's output as losses see the student's: logits also of one that ends in a softmax."""
        return as_logits(output) if self.name == "logits" else output

    def teacher(self, output: Tensor, index: Tensor, who: str) -> Tensor:
        """Return the output for the images ``index`` of a net that is not trained, as it is kept: embeddings at length
        1.

        Raises:
            InputError: one is not finite, or an embedding zero; the message calls the net ``who``.
        """
        rows = self.student(output)
        sizes = rows.flatten(1).norm(dim=1) if self.unit else rows.flatten(1).abs().amax(dim=1)
        bad = (~sizes.isfinite() | (sizes == 0)) if self.unit else ~(sizes <= _LARGEST)
        if bad.any():
            number = int(index[bad.nonzero()[0, 0].cpu()])
            wrong = "zero or not finite" if self.unit else f"not finite, or beyond {_LARGEST:g}"
            raise InputError(
                f"the {who}'s {self.word} of training image {number} is {wrong}: "
                f"check the {who} and its input preset"
            )
        return rows / sizes[:, None] if self.unit else rows


EMBEDDINGS = Task()


def as_logits(rows: Tensor) -> Tensor:
    """Logits of rows ``[N, D]``: of those that are probabilities the logarithm, whose softmax they are; others stay."""
    probable = are_probabilities(rows)[:, None]
    return torch.where(probable, rows.clamp_min(_SMALLEST).log(), rows)


def are_probabilities(rows: Tensor) -> Tensor:
    """Return which rows of ``[N, D]`` are the outcome of a softmax: nowhere negative, with the sum 1. Bool ``[N]``."""
    rows = rows.detach().float()
    return (rows >= 0).all(dim=1) & ((rows.sum(dim=1) - 1).abs() < _SUM)
