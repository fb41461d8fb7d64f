"""Verification sets of image pairs: what they are, and reading one from whatever its makers published."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from recipes.faces.images.items import Items, item_image
from recipes.faces.images.kept import Kept
from recipes.faces.sets.bins import read_bin
from recipes.faces.sets.pair_lists import ListedPair, read_cfp, read_pair_list
from reparam_kit import InputError, atomic_file, read_file, require_file


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of face images and whether each pair shows one person.

    Attributes:
        images: 2N images, encoded or as datasets give them; pair ``i`` is ``images[2 * i]`` and ``images[2 * i + 1]``.
        same: bool ``[N]``.
        folds: the number of each pair's fold, int64 ``[N]``, where the set's makers say which is which.
        names: what messages call each of the 2N images, where they came from files of their own.

    Raises:
        InputError: the lengths do not match, or there is no pair.

    >>> photo = Path("photos/anna/0.png").read_bytes()
    >>> len(PairSet([photo, photo], np.array([True])))
    1
    """

    images: Items
    same: npt.NDArray[np.bool_]
    folds: npt.NDArray[np.int64] | None = None
    names: list[str] | None = None
    _kept: Kept[Tensor] = field(default_factory=Kept, init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.same) or len(self.images) != 2 * len(self.same):
            raise InputError(
                f"{len(self.images)} images do not make {len(self.same)} pairs, which need two each"
            )

    def __len__(self) -> int:
        return len(self.same)

    def image(self, index: int, name: str) -> Tensor:
        """Return one of the 2N images, ``[C, H, W]``, not to be written to; messages call the set ``name``."""
        where = self.names[index] if self.names else f"{name}: image {index % 2} of pair {index // 2}"
        return self._kept.get(index, len(self.images), lambda: item_image(self.images[index], where))

    def sample(self, limit: int) -> PairSet:
        """Return at most ``limit`` of the pairs, spread evenly over the set, half of them genuine where it has
        as many.
        """
        if limit >= len(self):
            return self
        kinds = np.flatnonzero(self.same), np.flatnonzero(~self.same)
        genuine = min(len(kinds[0]), max(limit // 2, limit - len(kinds[1])))
        spread = [
            kind[np.linspace(0, len(kind) - 1, count).round().astype(int)]
            for kind, count in zip(kinds, (genuine, limit - genuine), strict=True)
        ]
        chosen = np.sort(np.concatenate(spread))
        images = [2 * int(i) + side for i in chosen for side in (0, 1)]
        return PairSet(
            [self.images[i] for i in images],
            self.same[chosen],
            None if self.folds is None else self.folds[chosen],
            None if self.names is None else [self.names[i] for i in images],
        )


def write_pairs(path: str | os.PathLike[str], pairs: PairSet) -> None:
    """Write a verification set as ``(bins, issame)``, which InsightFace and :func:`read_pairs` read.

    The format has no place for folds: readers cut it into consecutive ones.

    Raises:
        InputError: an image is not encoded; the folder does not exist or cannot be written to.

    >>> photo = Path("photos/anna/0.png").read_bytes()
    >>> write_pairs("one.bin", PairSet([photo, photo], np.array([True])))
    >>> len(read_pairs("one.bin"))
    1
    """
    encoded = [pairs.images[i] for i in range(len(pairs.images))]
    if not all(isinstance(image, bytes) for image in encoded):
        raise InputError(f"{path} holds encoded images, and those of the pairs are not encoded")
    with atomic_file(Path(path)) as file:
        pickle.dump((encoded, pairs.same.tolist()), file, protocol=4)


def read_pairs(path: str | os.PathLike[str], images: str | os.PathLike[str] | None = None) -> PairSet:
    """Read a verification set; what it is shows in its content.

    - InsightFace's ``.bin`` (LFW, AgeDB-30, CFP-FP, CALFW, CPLFW as it distributes them)
    - a list of LFW, CALFW, CPLFW, or of ``path path 0/1`` (AgeDB-30): see :func:`recipes.faces.sets.pair_lists`
    - CFP's folder (its frontal-profile pairs), or its ``Protocol/Split/FP`` or ``Protocol/Split/FF``

    The images of a list are read into memory as they are stored, each file once. They must be aligned crops of the
    size that the model takes.

    Args:
        path: file or folder.
        images: the folder that a list's paths start in. None: the list's own folder, and for CFP its ``Data/Images``.

    Raises:
        UnsafeFileError: a ``.bin`` names something that a verification set does not hold. None of it was run.
        InputError: a file is missing, cut short, or not such a set; of a list, the message names the line.

    >>> pairs = read_pairs("lfw.bin")
    >>> len(pairs), int(pairs.same.sum())
    (20, 10)
    """
    path = Path(path)
    folder = None if images is None else Path(images)
    if path.is_dir():
        return _load(read_cfp(path, folder))
    if not _is_pickle(path):
        return _load(read_pair_list(path, folder or path.parent))
    if folder is not None:
        raise InputError(f"{path} holds its images: leave out the image folder {folder}")
    encoded, same = read_bin(path)
    try:
        names = [f"{path}: image {i % 2} of pair {i // 2}" for i in range(len(encoded))]
        return PairSet(encoded, np.array(same, np.bool_), names=names)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _is_pickle(path: Path) -> bool:
    if path.suffix == ".bin":
        return True
    if require_file(path, "a verification set").suffix.lower() in (".rec", ".idx"):
        raise InputError(
            f"{path} is training data (--data), not a verification set, such as a .bin or a list of pairs"
        )
    try:
        with path.open("rb") as file:
            return file.read(1) == b"\x80"  # how a pickle of protocol 2 or later begins, and no text in UTF-8
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def _load(listed: list[ListedPair]) -> PairSet:
    read: dict[Path, bytes] = {}
    for pair in listed:
        for file in pair.files:
            if file not in read:
                try:
                    read[file] = read_file(file, "an image")
                except InputError as error:
                    raise InputError(f"{pair.where}: {error}") from error
    files = [file for pair in listed for file in pair.files]
    folds = [pair.fold for pair in listed if pair.fold is not None]
    return PairSet(
        [read[file] for file in files],
        np.array([pair.same for pair in listed], np.bool_),
        np.array(folds, np.int64) if folds else None,
        [str(file) for file in files],
    )
