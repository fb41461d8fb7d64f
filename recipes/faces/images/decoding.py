"""Images as they are stored to pixels of a size: one decoding for ``.rec``, ``.bin``, folders and lists.

The pixels are those of OpenCV's ``imdecode(IMREAD_COLOR)``, by which InsightFace and MXNet read theirs:

- JPEG, PNG, WebP, BMP and TIFF; of several frames or pages, the first
- of 16 bits, the high 8; greys and palettes become RGB
- transparency is dropped: the colour is taken that stands there, whatever lies behind it; but libtiff, and so this,
  multiplies the colours of 8 bits in a TIFF by it
- CMYK is multiplied out; a colour profile is not applied
- the EXIF orientation is obeyed
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt

from reparam_kit import InputError, extra, first_line

with extra("faces", "reading images needs Pillow"):
    from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
    from PIL.TiffImagePlugin import TiffImageFile

SUFFIXES = (".jpg", ".png", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_DEPTHS = 258  # the tag of a TIFF with the bits of each channel
_MAX_PIXELS = 50_000_000  # a file of 150 kB can hold as many, and takes 500 MB to decode
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where Pillow looks for an orientation, and OpenCV does not.
_OTHER_METADATA = ("xmp", "XML:com.adobe.xmp", "Raw profile type exif")


def decode_image(data: bytes, where: str) -> npt.NDArray[np.uint8]:
    """Return an image as uint8 RGB ``[H, W, 3]``, decoded as the head of this module says.

    Args:
        data: the encoded image.
        where: what the error calls it, such as ``"train.rec: record 17 at byte 40"``.

    Raises:
        InputError: it is in no format that is read, is cut short or otherwise damaged, has more than 50 million
            pixels (known before they are decoded), or holds 32-bit numbers.

    >>> decode_image(Path("photos/anna/0.png").read_bytes(), "photos/anna/0.png").shape
    (16, 16, 3)
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, which no pixel depends on
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
                if image.format == "PNG":  # Pillow decodes without a look at the checksums
                    Image.open(io.BytesIO(data), formats=("PNG",)).verify()
                multiplied, upright = _is_multiplied(image), _upright(image)
                return rgb_pixels(upright.convert("RGBa") if multiplied else upright, image.format == "PNG")
    except UnidentifiedImageError as error:  # its own text is about a Python object
        if not data:
            raise InputError(f"{where} is empty: it has no bytes") from error
        raise InputError(
            f"{where} is not a JPEG, PNG, WebP, BMP or TIFF image, or its beginning is damaged"
        ) from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{where} is larger than the {_MAX_PIXELS:,} pixels that are decoded: {first_line(error)}; "
            "crop the face first"
        ) from error
    except Exception as error:  # a damaged file can fail in any way
        raise InputError(f"{where} is damaged and cannot be decoded: {first_line(error)}") from error


def _is_multiplied(image: Image.Image) -> bool:
    """Return whether libtiff gives its colours multiplied by its transparency."""
    return isinstance(image, TiffImageFile) and image.mode == "RGBA" and max(image.tag_v2[_DEPTHS]) == 8


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    for key in _OTHER_METADATA:
        image.info.pop(key, None)
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF turns nothing
        return image
    return image.transpose(_ORIENTATIONS[orientation]) if orientation in _ORIENTATIONS else image


def rgb_pixels(image: Image.Image, png: bool = False) -> npt.NDArray[np.uint8]:
    """Return a Pillow image of any mode as RGB ``[H, W, 3]``; ValueError for one of 32-bit numbers."""
    if image.mode.startswith("I;16") or (png and image.mode == "I"):  # "I": Pillow before 11
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers, not of 1 to 16 bits")
    if image.mode == "CMYK":
        ink = np.asarray(image)
        light = 255 - ink[..., 3:].astype(np.uint16)
        return (light - (ink[..., :3] * light >> 8)).astype(np.uint8)
    if image.mode == "RGBa":
        return np.array(image)[..., :3]
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def fit_image(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Return the middle of an image as uint8 ``[size, size, 3]``: its longer side cropped to a square, the square
    scaled.
    """
    if image.shape[:2] == (size, size):
        return image
    return np.array(ImageOps.fit(Image.fromarray(image), (size, size), Image.Resampling.BICUBIC))
