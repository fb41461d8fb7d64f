"""Retrieval sets: images that are searched (queries) in others (the gallery), with the person and camera of each.

Market-1501 (L. Zheng, L. Shen, L. Tian, S. Wang, J. Wang, Q. Tian, "Scalable Person Re-identification: A Benchmark",
ICCV 2015) names its images ``0002_c1s1_000451_03.jpg``: person 2, camera 1. Person 0 is what detectors took for
someone, and -1 is *junk*, neither right nor wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from recipes.faces.images.items import Items, item_image, item_label
from recipes.faces.sets.folders import find_images, find_people
from recipes.faces.sets.market import JUNK as JUNK
from recipes.faces.sets.market import read_names
from reparam_kit import InputError, fingerprint


@dataclass(frozen=True, eq=False)
class Shots:
    """Images of people.

    Attributes:
        images: items of a dataset, paths among them.
        people: the name of each one's person; ``"-1"`` is junk.
        cameras: the number of each one's camera, int64 ``[N]``; -1: not known.
        names: which image each is: no image finds another one of its name.
    """

    images: Items
    people: list[str]
    cameras: npt.NDArray[np.int64]
    names: list[str]

    def __len__(self) -> int:
        return len(self.people)

    def image(self, index: int) -> Tensor:
        """Image ``index``, as :func:`item_image`."""
        return item_image(self.images[index], f"image {index}")

    def of(self, people: set[str]) -> Shots:
        """Return the shots of these people alone."""
        chosen = [i for i, person in enumerate(self.people) if person in people]
        return Shots(
            [self.images[i] for i in chosen],
            [self.people[i] for i in chosen],
            self.cameras[chosen],
            [self.names[i] for i in chosen],
        )


def label_shots(images: Items) -> Shots:
    """Return the shots of a labelled dataset: -1 is junk; the key "camera" of a dict is the camera.

    Raises:
        InputError: an item has no image, or a label or camera that is no whole number.
    """
    people, cameras, names = [], [], []
    for index in range(len(images)):
        item, where = images[index], f"image {index}"
        people.append(str(max(item_label(item, where), -1)))
        camera = item.get("camera", -1) if isinstance(item, Mapping) else -1
        cameras.append(item_label((None, camera), f"the camera of {where}"))
        names.append(fingerprint(item_image(item, where)))
    return Shots(images, people, np.array(cameras, np.int64), names)


def read_shots(path: str | os.PathLike[str]) -> Shots:
    """Read a folder of images with Market-1501's names, or a folder of people (``person/xxx.jpg``), without cameras.

    Raises:
        InputError: there is no such folder, or it holds no images, or images with other names.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: queries and gallery are folders of images")
    images, _ = find_images(path)
    named = read_names(path, images)
    if named is not None:
        cameras = np.array([camera for _, camera in named], np.int64)
        return _files([path / name for name in images], [person for person, _ in named], cameras)
    if images:
        raise InputError(
            f"{path / images[0]} has no name such as 0002_c1s1_000451_03.jpg (person, camera): name all images so, or "
            "put those of each person into a folder"
        )
    names, people, passed_over = find_people(path)
    if not names:
        raise InputError(f"{path} holds no images of people{passed_over and f'; {passed_over}'}")
    return _files([path / name for name in names], people, np.full(len(names), -1, np.int64))


def _files(files: list[Path], people: list[str], cameras: npt.NDArray[np.int64]) -> Shots:
    return Shots(files, people, cameras, [str(file) for file in files])
