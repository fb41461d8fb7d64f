"""Retrieval sets: images that are searched (queries) in others (the gallery), with the person and camera of each.

Market-1501 (L. Zheng, L. Shen, L. Tian, S. Wang, J. Wang, Q. Tian, "Scalable Person Re-identification: A Benchmark",
ICCV 2015) names its images ``0002_c1s1_000451_03.jpg``: person 2, camera 1. Person 0 is what detectors took for
someone, and -1 is *junk*, neither right nor wrong.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recipes.faces.images.decoding import SUFFIXES
from recipes.faces.sets.folders import find_people
from reparam_kit import InputError

JUNK = "-1"
_MARKET = re.compile(r"(-1|[0-9]{4})_c([0-9]+)s[0-9]+_[0-9]+_[0-9]+\.\w+")


@dataclass(frozen=True)
class Shots:
    """Images of people.

    Attributes:
        files: the images.
        people: the name of each one's person; ``"-1"`` is junk.
        cameras: the number of each one's camera, int64 ``[N]``; -1: not known.
    """

    files: list[Path]
    people: list[str]
    cameras: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.files)


def read_shots(path: str | os.PathLike[str]) -> Shots:
    """Read a folder of images with Market-1501's names, or a folder of people (``person/xxx.jpg``), without cameras.

    Raises:
        InputError: there is no such folder, or it holds no images, or images with other names.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder: queries and gallery are folders of images")
    images = sorted(
        file for file in path.iterdir() if file.name.lower().endswith(SUFFIXES) and file.is_file()
    )
    named = [_MARKET.fullmatch(file.name) for file in images]
    if images and all(named):
        people = [match[1] for match in named if match]
        cameras = [int(match[2]) for match in named if match]
        return Shots(images, people, np.array(cameras, np.int64))
    if images:
        strange = images[named.index(None)]
        raise InputError(
            f"{strange} has no name such as 0002_c1s1_000451_03.jpg (person, camera): name all images so, or put those "
            "of each person into a folder"
        )
    names, people, passed_over = find_people(path)
    if not names:
        raise InputError(f"{path} holds no images of people{passed_over and f'; {passed_over}'}")
    return Shots([path / name for name in names], people, np.full(len(names), -1, np.int64))
