"""What a user's dataset gives for an image, whatever it is made of, as one tensor and one label.

An item is an image, ``(image, label)`` with anything behind it, or a dict of both. Its image is a tensor, an array, a
PIL image, the path of a file, or what such a file holds, as bytes. The type of its numbers says what they are: uint8
are pixels of 0..255, floating point is what a net takes, already normalised.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reparam_kit import InputError, first_line, read_file

Item: TypeAlias = Any
"""As the head of this module says; what it is shows when it is read."""


class Items(Protocol):
    """A dataset, or a list, of items."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...


_IMAGE_KEYS = ("image", "img", "pixel_values", "x", "jpg", "jpeg", "png", "webp")  # the last are webdataset's
_LABEL_KEYS = ("label", "labels", "target", "y", "cls")
_WANTED = (
    "an item of the data is an image, (image, label), (image, label, index), or a dict of image and label, the image a "
    "tensor [C, H, W], an array [H, W, C], a PIL image or a pathlib.Path"
)
_LARGEST = 1 << 62  # label
_DIGITS = 18  # of one in bytes


def item_image(item: Item, where: str) -> Tensor:
    """Return the image of an item: uint8 or float32 ``[C, H, W]`` on the CPU, C being 1 or 3.

    Args:
        item: as the head of this module says.
        where: what messages call it, such as "training image 7".

    Raises:
        InputError: it holds no image, or one of other numbers, channels or axes; or a file cannot be read.

    >>> item_image((torch.zeros(3, 4, 4, dtype=torch.uint8), 7), "image 0").shape
    torch.Size([3, 4, 4])
    """
    image = _image(item, where)
    if isinstance(image, bytes | os.PathLike):
        image = _decoded(image, where)
    elif (pil := sys.modules.get("PIL.Image")) is not None and isinstance(image, pil.Image):
        image = _pixels(image, where)
    if isinstance(image, np.ndarray):
        planes = _channels_first(image, where)
    elif isinstance(image, Tensor):
        planes = image.detach().as_subclass(Tensor)
    else:
        raise InputError(f"{where} is {type(image).__name__}: {_WANTED}")
    planes = planes[None] if planes.ndim == 2 else planes
    _require_shape(planes, where)
    return planes.cpu() if planes.dtype == torch.uint8 else _floating(planes, where)


def item_label(item: Item, where: str) -> int:
    """Return the label of an item; -1 where it has none.

    Raises:
        InputError: it is not one whole number.

    >>> item_label({"image": torch.zeros(3, 4, 4), "label": 7}, "image 0"), item_label(torch.zeros(3, 4, 4), "image 1")
    (7, -1)
    """
    label = _label(item)
    value = label
    if isinstance(label, Tensor | np.ndarray | np.generic):
        value = label.item() if math.prod(label.shape) == 1 else None
    elif label is None:
        return -1
    if (isinstance(value, float) and value.is_integer()) or (
        isinstance(value, bytes) and value.isdigit() and len(value) <= _DIGITS
    ):
        value = int(value)
    if isinstance(value, int) and abs(value) < _LARGEST:
        return int(value)
    several = f"of shape {list(label.shape)}" if value is None else ""
    raise InputError(
        f"{where} has the label {several or repr(label)[:80]}: a label is one whole number, negative where it is not "
        "known"
    )


def _image(item: Item, where: str) -> Any:
    if isinstance(item, Mapping):
        found = next((key for key in _IMAGE_KEYS if key in item), None)
        if found is None:
            keys = ", ".join(map(str, item)) or "no key"
            raise InputError(
                f"{where} is a dict of {keys[:200]}, none of them {', '.join(_IMAGE_KEYS)}: {_WANTED}"
            )
        return item[found]
    return item[0] if isinstance(item, tuple | list) and item else item


def _label(item: Item) -> Any:
    if isinstance(item, Mapping):
        return next((item[key] for key in _LABEL_KEYS if key in item), None)
    return item[1] if isinstance(item, tuple | list) and len(item) > 1 else None


def _decoded(image: bytes | os.PathLike[str], where: str) -> npt.NDArray[np.uint8]:
    from recipes.faces.images.decoding import decode_image

    if isinstance(image, bytes):
        return decode_image(image, where)
    try:
        data = read_file(Path(image), "an image")
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return decode_image(data, f"{where}, {os.fspath(image)},")


def _pixels(image: Any, where: str) -> npt.NDArray[np.uint8]:
    """Return the pixels of a PIL image: greys ``[H, W]``, all else RGB ``[H, W, 3]``."""
    from recipes.faces.images.decoding import rgb_pixels

    try:
        pixels = rgb_pixels(image)
    except (OSError, ValueError) as error:  # how Pillow says that a file is damaged
        raise InputError(f"{where} cannot be decoded: {first_line(error)}") from error
    return pixels[..., 0] if image.mode in ("1", "L") or image.mode.startswith("I;16") else pixels


def _channels_first(image: npt.NDArray[Any], where: str) -> Tensor:
    """Put the channels first of an array ``[H, W, C]``, or ``[C, H, W]`` where C can be seen to be first."""
    if image.dtype.kind not in "biuf":
        raise InputError(f"{where} is an array of {image.dtype}: {_WANTED}")
    # Copied, because it may be read-only or a reversed view, which torch does not take.
    planes = torch.from_numpy(np.array(image, image.dtype.newbyteorder("=")))
    first = image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3)
    return planes if first or image.ndim != 3 else planes.movedim(-1, 0)


def _require_shape(planes: Tensor, where: str) -> None:
    found = f"{where} is {planes.dtype} {list(planes.shape)}"
    if planes.ndim != 3 or planes.shape[0] not in (1, 3) or not planes.numel():
        last = planes.ndim == 3 and planes.shape[2] in (1, 3)
        advice = (
            "permute(2, 0, 1) brings the channels first" if last else "of one image, with 1 or 3 channels"
        )
        raise InputError(f"{found}, not [C, H, W]: {advice}")
    if planes.dtype != torch.uint8 and not planes.is_floating_point():
        raise InputError(
            f"{found}: pixels of 0..255 are torch.uint8, and what is already normalised is floating point"
        )


def _floating(planes: Tensor, where: str) -> Tensor:
    planes = planes.float().cpu()
    if not planes.isfinite().all():
        raise InputError(f"{where} has numbers that are not finite")
    return planes
