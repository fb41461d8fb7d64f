"""Images: decoding, alignment, augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparam_kit import lazily

if TYPE_CHECKING:
    from recipes.faces.images.align import align as align
    from recipes.faces.images.augment import Augmentation as Augmentation
    from recipes.faces.images.decoding import decode_image as decode_image
else:
    __getattr__, __dir__, __all__ = lazily(__name__)
