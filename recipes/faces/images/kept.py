"""The decoded images of a small set, which is gone through again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

_ROOM = 1 << 26  # bytes of decoded images: 9,000 of 48x48 pixels, 1,700 of 112x112


class _Pixels(Protocol):
    @property
    def nbytes(self) -> int: ...


Image = TypeVar("Image", bound=_Pixels)


class Kept(Generic[Image]):
    """Images of a set, each decoded once where all of them take at most 64 MiB; of a larger set nothing is held.

    What is pickled, as for processes that decode images, begins anew.
    """

    def __init__(self) -> None:
        self._images: dict[int, Image] = {}

    def __reduce__(self) -> tuple[type[Kept[Image]], tuple[()]]:
        return type(self), ()

    def get(self, index: int, count: int, decode: Callable[[], Image]) -> Image:
        """Return image ``index`` of ``count``, which nobody may write to."""
        image = self._images.get(index)
        if image is None:
            image = decode()
            if count * image.nbytes <= _ROOM:
                self._images[index] = image
        return image
