"""What the outputs of a face detector mean: YuNet's and SCRFD's, told by their shapes.

Both are read at cells of 8, 16, 32, ... pixels, each with one or more anchors, row by row. Every anchor has its scores,
four numbers of a box and ten of five points. The formulas are those of OpenCV's ``face_detect.cpp``
(``FaceDetectorYNImpl::postProcess``) and of InsightFace's ``model_zoo/scrfd.py`` (``SCRFD.forward``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from recipes.faces.aligning.detections import Detections, Floats, join
from reparam_kit import InputError

FIRST_STRIDE = 8
_BOX, _POINTS = 4, 10
_WANTED = (
    "what is read are YuNet's outputs (of 2023 and later: cls, obj, bbox and kps at 3 strides) and SCRFD's with five "
    "points (score, bbox and kps at 3 or 5 strides)"
)


class Form(ABC):
    """One family of detectors: what it takes, and how its numbers are read."""

    scores: ClassVar[int]
    """How many numbers of an anchor say together how sure it is."""

    @abstractmethod
    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """Return what the net takes of RGB ``[H, W, 3]``: ``[H, W, 3]``."""

    @abstractmethod
    def certainty(self, scores: list[Floats]) -> Floats:
        """Return one score ``[N]`` of those of each anchor."""

    @abstractmethod
    def corners(self, cells: Floats, box: Floats) -> Floats:
        """Return left, top, right and bottom in strides, of cells ``[N, 2]`` and numbers ``[N, 4]``."""


class YuNet(Form):
    """Takes BGR as it is. Its box is a centre, and the logarithm of width and height."""

    scores = 2

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        return pixels[..., ::-1].astype(np.float32)

    def certainty(self, scores: list[Floats]) -> Floats:
        certainty: Floats = np.sqrt(scores[0].clip(0, 1) * scores[1].clip(0, 1))
        return certainty

    def corners(self, cells: Floats, box: Floats) -> Floats:
        centre, half = cells + box[:, :2], np.exp(box[:, 2:].clip(max=20)) / 2
        return np.hstack([centre - half, centre + half])


class SCRFD(Form):
    """Takes RGB around 0. Its box is the distance to each of the four sides."""

    scores = 1

    def prepare(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        prepared: Floats = (pixels.astype(np.float32) - np.float32(127.5)) / np.float32(128)
        return prepared

    def certainty(self, scores: list[Floats]) -> Floats:
        return scores[0]

    def corners(self, cells: Floats, box: Floats) -> Floats:
        return np.hstack([cells - box[:, :2], cells + box[:, 2:]])


_FORMS: tuple[type[Form], ...] = (YuNet, SCRFD)


def tell_form(outputs: Sequence[Floats], where: str) -> Form:
    """Tell the family of a detector by its ``outputs`` of any image, whatever they are called.

    Raises:
        InputError: it is of neither. ``where`` is what the message calls it.
    """
    counts = {columns: len(_of(outputs, columns)) for columns in (1, _BOX, _POINTS)}
    strides = counts[_BOX]
    if strides and not counts[_POINTS] and sum(counts.values()) == len(outputs):
        raise InputError(
            f"{where} finds boxes and no landmarks: take the version of it that gives five points"
        )
    if counts[_POINTS] == strides >= 1 and sum(counts.values()) == len(outputs):
        for form in _FORMS:
            if counts[1] == form.scores * strides:
                return form()
    shapes = ", ".join(str(list(output.shape)) for output in outputs[:12])
    raise InputError(f"{where} has the outputs {shapes}, which are of no detector that is known: {_WANTED}")


def decode(
    form: Form, outputs: Sequence[Floats], shape: tuple[int, ...], threshold: float, where: str
) -> Detections:
    """Return the faces of which a detector of ``form`` is sure by ``threshold`` or more, each perhaps several times.

    Args:
        form: the family of the detector.
        outputs: of one image.
        shape: height and width of that image.
        threshold: from 0 to 1.
        where: what the error calls the detector.

    Raises:
        InputError: the outputs do not fit the size of the image.
    """
    kinds = [_of(outputs, columns) for columns in (1, _BOX, _POINTS)]
    strides, (height, width) = len(kinds[1]), shape
    found = []
    for level in range(strides):
        stride = FIRST_STRIDE << level
        certain = form.certainty([scores[:, 0] for scores in kinds[0][level * form.scores :][: form.scores]])
        cells = _cells(height // stride, width // stride, len(certain), where)
        box, points = kinds[1][level], kinds[2][level]
        if not len(certain) == len(box) == len(points):
            raise InputError(
                f"{where} gives {len(certain)} scores, {len(box)} boxes, {len(points)} x 5 points"
            )
        sure = certain >= threshold
        corners = form.corners(cells[sure], box[sure])
        places = cells[sure][:, None] + points[sure].reshape(-1, 5, 2)
        found.append(Detections(certain[sure], corners * stride, places * stride))
    return join(found)


def _of(outputs: Sequence[Floats], columns: int) -> list[Floats]:
    """Return the outputs of so many numbers an anchor ``[N, columns]``, those of the smallest stride first."""
    found = [
        output.reshape(-1, columns)
        for output in outputs
        if output.ndim in (2, 3) and output.shape[-1] == columns and output.shape[:-2] in ((), (1,))
    ]
    return sorted(found, key=len, reverse=True)


def _cells(rows: int, columns: int, anchors: int, where: str) -> Floats:
    """Return x and y of the cell of each anchor, ``[N, 2]``."""
    several, rest = divmod(anchors, rows * columns) if rows * columns else (0, 1)
    if rest or not several:
        raise InputError(
            f"{where} gives {anchors} anchors for {rows} x {columns} cells: its strides are not known"
        )
    y, x = np.divmod(np.arange(rows * columns), columns)
    return np.repeat(np.stack([x, y], axis=1), several, axis=0).astype(np.float32)
