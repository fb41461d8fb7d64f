"""Faces found in a photo, and which of them are one and the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]

_SAME = 0.4  # of the union of two boxes, that they share; InsightFace's value, OpenCV's is 0.3


@dataclass(frozen=True, eq=False)
class Detections:
    """Faces in one image, in its pixels.

    Attributes:
        scores: how sure the detector is of each, ``[N]``.
        boxes: left, top, right, bottom, ``[N, 4]``.
        points: x and y of left eye, right eye, nose, left and right corner of the mouth as the image shows them,
            ``[N, 5, 2]``.

    >>> found = Detections(np.float32([0.9]), np.float32([[0, 0, 30, 40]]), np.zeros((1, 5, 2), np.float32))
    >>> len(found), found.sides
    (1, array([40.], dtype=float32))
    """

    scores: Floats
    boxes: Floats
    points: Floats

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def sides(self) -> Floats:
        """The longer side of each box."""
        sides: Floats = (self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1, initial=0)
        return sides

    def take(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Detections:
        """Return those that are ``chosen``, by number or by truth."""
        return Detections(self.scores[chosen], self.boxes[chosen], self.points[chosen])

    def placed(self, scale: float, left: int, top: int) -> Detections:
        """Return them in the image of which this one is a part, ``left`` and ``top`` being its corner, and which is
        ``scale`` times the size of the one that is wanted.
        """
        corner = np.array([left, top], np.float32)
        return Detections(
            self.scores, (self.boxes + np.tile(corner, 2)) / scale, (self.points + corner) / scale
        )


def join(several: Sequence[Detections]) -> Detections:
    """Return all of ``several`` in one; they may be the same faces."""
    return Detections(
        np.concatenate([found.scores for found in several]),
        np.concatenate([found.boxes for found in several]),
        np.concatenate([found.points for found in several]),
    )


def distinct(found: Detections) -> Detections:
    """Leave out each one that shares most of its box with one of a higher score: non-maximum suppression."""
    left, top, right, bottom = found.boxes.T
    areas = (right - left) * (bottom - top)
    order = np.argsort(-found.scores, kind="stable")
    kept = []
    while len(order):
        best, others = order[0], order[1:]
        kept.append(best)
        width = np.minimum(right[best], right[others]) - np.maximum(left[best], left[others])
        height = np.minimum(bottom[best], bottom[others]) - np.maximum(top[best], top[others])
        shared = width.clip(0) * height.clip(0)
        order = others[shared <= _SAME * (areas[best] + areas[others] - shared)]
    return found.take(np.array(kept, np.intp))
