"""Image files to pixels of a size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reparam_kit import InputError, extra

with extra("faces", "reading images needs Pillow"):
    from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png")


def read_image(path: Path) -> bytes:
    """The encoded image of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the image {path} cannot be read: {error.strerror}") from error


def decode_image(data: bytes, where: str) -> npt.NDArray[np.uint8]:
    """A JPEG or PNG as uint8 RGB ``[H, W, 3]``. Grey, palette and CMYK images become RGB; transparency is dropped.

    Args:
        data: the encoded image.
        where: what the error calls it, such as ``"train.rec: record 17 at byte 40"``.

    Raises:
        InputError: it is neither format, is cut short or is otherwise damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:  # its own text is about a Python object
        raise InputError(f"{where} is not a JPEG or PNG") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{where} is not a JPEG or PNG that can be decoded: {error}") from error


def fit_image(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The middle of an image as uint8 ``[size, size, 3]``: its longer side cropped to a square, the square scaled."""
    if image.shape[:2] == (size, size):
        return image
    return np.array(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.BICUBIC))
