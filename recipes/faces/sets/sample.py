"""A sample of images for commands of the core, under the entry points ``reparam_kit.images``."""

from __future__ import annotations

import os

import torch

from recipes.faces.embedding.inputs import input_preset
from recipes.faces.sets.datasets import read_faces


def read_sample(path: str | os.PathLike[str], preset: str, most: int) -> torch.Tensor:
    """Return at most ``most`` images, evenly spread over what :func:`read_faces` finds at ``path``.

    They are float32 ``[N, C, H, W]``, as a net takes them that expects ``preset``.

    Raises:
        InputError: there are none, they cannot be read, or the preset is unknown.
    """
    prepare = input_preset(preset)
    images = read_faces(path)
    count = min(most, len(images))
    chosen = [images[index * len(images) // count][0] for index in range(count)]
    return prepare(torch.stack(chosen))
