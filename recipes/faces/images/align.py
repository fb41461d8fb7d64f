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
_SIZE = 112


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


def align(
    image: npt.NDArray[np.uint8], points: npt.NDArray[np.floating], where: str
) -> npt.NDArray[np.uint8]:
    """Return the crop uint8 ``[112, 112, 3]`` of a face ``[H, W, 3]``, black where it reaches outside the image.

    Args:
        image: RGB or any other three channels.
        points: x and y of left eye, right eye, nose, left and right corner of the mouth, in pixels, ``[5, 2]``.
        where: what the error calls the face.

    Raises:
        InputError: the points are not finite, or all the same.
    """
    if not np.isfinite(points).all() or not np.ptp(points, axis=0).any():
        raise InputError(f"{where}: the landmarks {points.tolist()} are not five points of a face")
    forward = np.vstack([similarity_transform(points, TEMPLATE), [0, 0, 1]])
    # Pillow asks where a pixel of the crop comes from, and measures from the corner of a pixel, not its centre.
    a, b, c, d, e, f = np.linalg.inv(forward)[:2].ravel()
    inverse = (a, b, c + 0.5 - (a + b) / 2, d, e, f + 0.5 - (d + e) / 2)
    crop = Image.fromarray(image).transform(
        (_SIZE, _SIZE), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
    )
    return np.array(crop)
