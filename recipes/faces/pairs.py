"""Verification sets: InsightFace's ``.bin``, a pickle of ``(bins, issame)``, read without unpickling anything it names.

``bins`` are 2N encoded images, as bytes or as one-dimensional uint8 arrays; ``issame`` are N truth values; pair ``i`` is the
images ``2i`` and ``2i + 1``. A pickle can name any function of the machine and have it called. Here a name never reaches
an import: the few that such files need, numpy's array constructors among them, are given small stand-ins that know how to
hold bytes and nothing else (numpy's own constructors trust what a pickle tells them about memory), and every other name is
refused.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recipes.faces.files import replacing
from reparam_kit import InputError, UnsafeFileError


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of face images and whether each pair shows one person.

    Attributes:
        images: 2N encoded images (JPEG or PNG); pair ``i`` is ``images[2 * i]`` and ``images[2 * i + 1]``.
        same: bool ``[N]``.

    Raises:
        InputError: the lengths do not match, or there is no pair.
    """

    images: list[bytes]
    same: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        if not len(self.same) or len(self.images) != 2 * len(self.same):
            raise InputError(f"{len(self.images)} images do not make {len(self.same)} pairs, which need two each")

    def __len__(self) -> int:
        return len(self.same)


def write_pairs(path: str | os.PathLike[str], pairs: PairSet) -> None:
    """Write a verification set as ``(bins, issame)``, which InsightFace and :func:`read_pairs` read.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    with replacing(Path(path)) as file:
        pickle.dump((pairs.images, pairs.same.tolist()), file, protocol=4)


def read_pairs(path: str | os.PathLike[str]) -> PairSet:
    """Read a verification set, of python 2 or 3.

    Raises:
        UnsafeFileError: the file names something that a verification set does not hold. Nothing of it was run.
        InputError: the file is missing, cut short, or not such a set.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _PairUnpickler(file, encoding="bytes").load()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path} {error}") from error
    except Exception as error:  # a damaged pickle fails in any way it likes
        raise InputError(f"{path} is cut short or not a verification set: {error!r}") from error
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise InputError(f"{path} is not a verification set: it does not hold (bins, issame)")
    bins, same = content
    ...
