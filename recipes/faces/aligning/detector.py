"""A face detector in an ONNX file, on photos of any size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recipes.faces.aligning.detections import Detections, Floats, distinct, join
from recipes.faces.aligning.forms import decode, tell_form
from recipes.faces.images.align import align, crop_transform
from reparam_kit import InputError, extra, first_line, open_session

with extra("faces", "aligning faces needs Pillow"):
    from PIL import Image

_USUAL = 640  # longer side of what a detector of no fixed size is given
_MULTIPLE = 128  # the largest stride there is
_LARGEST_ZOOM = 2.0  # an enlarged photo shows nothing new, and a face may become too large to be found
_FINEST = 16  # pixels of a face that are enough to find it
_COARSEST = 0.5  # so much smaller faces are looked for that fill the photo

_LOOKS = 2  # more at each face
_CLOSE = 384  # pixels in which it is looked at then
_AROUND = 0.4  # and what is shown around it, as a share of its crop at each side

Pixels = npt.NDArray[np.uint8]


class Detector:
    """Finds faces and their five points with an ONNX file of YuNet (of 2023 and later) or SCRFD (with five points).

    The photo is looked at in several sizes: as large as the detector takes it, half as large for faces that fill it,
    and larger, in tiles where the detector's size is fixed, until the smallest face is found or large enough to be.

    Args:
        path: the file.
        threshold: how sure of a face it has to be, from 0 to 1.
        smallest: the longer side of the smallest face that is looked for, in pixels of the photo.

    Raises:
        InputError: the file is missing, onnxruntime cannot load it, it takes something else than one image, or gives
            something else than the outputs of these detectors.

    >>> found = Detector("detector.onnx")(np.zeros((480, 640, 3), np.uint8))
    >>> len(found)
    0
    """

    def __init__(self, path: str | os.PathLike[str], threshold: float = 0.6, smallest: float = 40) -> None:
        self.path, self.threshold, self.smallest = Path(path), threshold, smallest
        self._session = open_session(self.path)
        self._canvas = self._size()
        blank = np.zeros((*(self._canvas or (_USUAL, _USUAL)), 3), np.float32)
        self.form = tell_form(self._run(blank), str(self.path))
        decode(self.form, self._run(blank), blank.shape[:2], 1.0, str(self.path))

    def _size(self) -> tuple[int, int] | None:
        """Return height and width that the file has fixed, if any."""
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if (
            inputs[0].type != "tensor(float)"
            or len(shape) != 4
            or shape[1] != 3
            or shape[0] not in (1, *_free(shape))
        ):
            taken = ", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs)
            raise InputError(
                f"{self.path} takes {taken}: a detector takes one image, float32 [1, 3, height, width]"
            )
        height, width = (size if isinstance(size, int) and size > 0 else 0 for size in shape[2:])
        if bool(height) != bool(width):
            raise InputError(
                f"{self.path} takes images {shape}: height and width are to be both fixed or both free"
            )
        return (height, width) if height else None

    def __call__(self, photo: Pixels, every: bool = False) -> Detections:
        """Return the faces of a photo, RGB ``[H, W, 3]``, the largest first.

        Args:
            photo: uint8.
            every: look for small faces also where large ones are found.

        Raises:
            InputError: the detector fails on it.
        """
        found: Detections | None = None
        for scale, needed in self._scales(*photo.shape[:2]):
            if found is not None and not (needed or every) and len(found):
                break
            seen = self._look(photo, scale)
            found = seen if found is None else join([found, seen])
        assert found is not None
        found = distinct(found)
        return found.take(np.argsort(-found.sides, kind="stable"))

    def refine(self, photo: Pixels, points: Floats) -> Floats:
        """Return the five points ``[5, 2]`` of a face more exactly, found anew where it stands upright and is large.

        Detectors have seen few faces that lean, and place the points of small ones coarsely: of YuNet's, turned by up
        to 25 degrees, three quarters lie within 2.3 degrees then, and within 11 before.
        """
        for _ in range(_LOOKS):
            points = self._looked_at_closely(photo, points)
        return points

    def _looked_at_closely(self, photo: Pixels, points: Floats) -> Floats:
        rows, columns = self._canvas or (_CLOSE, _CLOSE)
        side = min(rows, columns, _CLOSE)
        tile = np.zeros((rows, columns, 3), np.uint8)
        tile[:side, :side] = align(photo, points, str(self.path), side, _AROUND)
        found = self._detect(tile)
        middle = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        found = found.take(np.abs(middle - side / 2).max(axis=1, initial=0) < side / 8)
        if not len(found):
            return points
        there = found.points[found.sides.argmax()] + 0.5
        back = np.linalg.inv(np.vstack([crop_transform(points, side, _AROUND), [0, 0, 1]]))[:2]
        found_again: Floats = (there @ back[:, :2].T + back[:, 2] - 0.5).astype(np.float32)
        return found_again

    def _scales(self, height: int, width: int) -> Iterator[tuple[float, bool]]:
        """Yield the sizes in which a photo is looked at, and whether it has to be."""
        rows, columns = self._canvas or (_USUAL, _USUAL)
        scale = min(rows / height, columns / width, _LARGEST_ZOOM)
        yield scale * _COARSEST, True
        yield scale, True
        while scale * self.smallest < _FINEST:
            scale *= 2
            yield scale, False

    def _look(self, photo: Pixels, scale: float) -> Detections:
        """Return what is found in a photo of another size, which may be one face several times."""
        height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
        image = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        pixels = np.asarray(image)
        rows, columns = self._canvas or (_tiled(height), _tiled(width))
        found = []
        for top, left in product(_starts(height, rows), _starts(width, columns)):
            tile = np.zeros((rows, columns, 3), np.uint8)
            part = pixels[top : top + rows, left : left + columns]
            tile[: part.shape[0], : part.shape[1]] = part
            seen = self._detect(tile)
            whole = _whole(
                seen.boxes, (left > 0, top > 0, left + columns < width, top + rows < height), tile.shape
            )
            found.append(seen.take(whole).placed(scale, left, top))
        return join(found)

    def _detect(self, tile: Pixels) -> Detections:
        outputs = self._run(self.form.prepare(tile))
        found = decode(self.form, outputs, tile.shape[:2], self.threshold, str(self.path))
        numbers = np.hstack([found.boxes, found.points.reshape(-1, 10)])
        return distinct(found.take(np.flatnonzero(np.isfinite(numbers).all(axis=1))))

    def _run(self, pixels: Floats) -> list[Floats]:
        blob = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        try:
            outputs = self._session.run(None, {self._session.get_inputs()[0].name: blob})
        except Exception as error:  # onnxruntime's errors share no other class
            raise InputError(
                f"{self.path} fails on an image {list(blob.shape)}: {first_line(error)}"
            ) from error
        return [np.asarray(output) for output in outputs]


def _free(shape: list[int | str | None]) -> tuple[object, ...]:
    """Return the first size where it is no number."""
    return () if isinstance(shape[0], int) and shape[0] > 0 else (shape[0],)


def _tiled(side: int) -> int:
    """Return ``side`` up to the next size that has whole cells of every stride."""
    return -(-side // _MULTIPLE) * _MULTIPLE


def _starts(length: int, tile: int) -> list[int]:
    """Return where tiles begin that cover ``length``, half of each on the next."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile // 2), length - tile]


def _whole(boxes: Floats, inner: tuple[bool, ...], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Return which faces a tile shows whole: no side that is within the photo cuts them."""
    ends = np.array([0, 0, shape[1], shape[0]])
    beyond = np.hstack([boxes[:, :2] < ends[:2], boxes[:, 2:] > ends[2:]])
    whole: npt.NDArray[np.bool_] = ~(beyond & np.array(inner)).any(axis=1)
    return whole
