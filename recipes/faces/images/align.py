"""Five-point alignment: the crop that face nets are trained on, from a face and its landmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from reparam_kit import InputError, extra

with extra("faces", "aligning a face needs Pillow"):
    from PIL import Image

# Where InsightFace's crops of 112x112 have left eye, right eye, nose, left and right corner of the mouth (x, y).
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
SIZE = 112


def similarity_transform(
    points: npt.NDArray[np.floating], target: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the rotation, scale and shift ``[2, 3]`` that bring ``points`` ``[N, 2]`` nearest to ``target``, in least
    squares.

    Source: S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", TPAMI 1991,
    equations 40 to 42.
    """
    source = points.astype(np.float64)
    centre, aim = source.mean(0), target.mean(0)
    spread = source - centre
    u, values, v = np.linalg.svd((target - aim).T @ spread / len(source))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(v))])  # no mirror image
    rotation = u * sign @ v
    scale = values @ sign / spread.var(0).sum()
    return np.column_stack([scale * rotation, aim - scale * rotation @ centre])


def crop_transform(
    points: npt.NDArray[np.floating], size: int = SIZE, margin: float = 0.0
) -> npt.NDArray[np.float64]:
    """Return what takes a place in the image to its place in the crop, ``[2, 3]``, see :func:`align`.

    Both are measured from the corner of the first pixel, as Pillow does, while ``points`` are from its centre.
    """
    target = (TEMPLATE + 0.5 + SIZE * margin) * (size / (SIZE * (1 + 2 * margin)))
    return similarity_transform(points + 0.5, target)


def align(
    image: npt.NDArray[np.uint8],
    points: npt.NDArray[np.floating],
    where: str,
    size: int = SIZE,
    margin: float = 0.0,
) -> npt.NDArray[np.uint8]:
    """Return the crop uint8 ``[size, size, 3]`` of a face ``[H, W, 3]``, black where it reaches outside the image.

    Args:
        image: RGB or any other three channels.
        points: x and y of left eye, right eye, nose, left and right corner of the mouth as the image shows them, in
            pixels, ``[5, 2]``.
        where: what the error calls the face.
        size: height and width of the crop.
        margin: what is shown besides at each side, as a share of the usual crop: the face is smaller by as much.

    Raises:
        InputError: the points are not finite, or all the same.

    >>> points = np.float32([[60, 80], [110, 80], [85, 110], [65, 140], [105, 140]])
    >>> align(np.zeros((240, 180, 3), np.uint8), points, "a photo").shape
    (112, 112, 3)
    """
    if not np.isfinite(points).all() or not np.ptp(points, axis=0).any():
        raise InputError(f"{where}: the landmarks {points.tolist()} are not five points of a face")
    forward = np.vstack([crop_transform(points, size, margin), [0, 0, 1]])
    inverse = np.linalg.inv(forward)[:2]
    source = Image.fromarray(image)
    # A crop takes its pixels one by one, and would skip most of those of a large face.
    factor = int(min(np.sqrt(np.linalg.det(inverse[:, :2])), *source.size))
    if factor > 1:
        source, inverse = source.reduce(factor), inverse / factor
    place = tuple(inverse.ravel())
    return np.array(source.transform((size, size), Image.Transform.AFFINE, place, Image.Resampling.BILINEAR))
