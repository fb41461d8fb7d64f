"""The demo's people on disk and in memory: three groups, and nobody is in two of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from recipes.demo.drawing import SIZE, draw
from recipes.demo.people import IDENTITY, VARIATION, sample, take
from recipes.faces import FaceRecords, PairSet, write_pairs, write_records
from recipes.faces.files import replacing

Pictures = npt.NDArray[np.uint8]

FOLDS = 10


def portraits(people: int, each: int, rng: np.random.Generator) -> tuple[Pictures, npt.NDArray[np.int64]]:
    """Pictures uint8 ``(people * each, SIZE, SIZE, 3)`` of new people, and who is on each."""
    who = np.repeat(np.arange(people), each)
    return draw(take(sample(IDENTITY, people, rng), who), sample(VARIATION, len(who), rng), rng), who


def write_faces(path: Path, people: int, each: int, rng: np.random.Generator) -> None:
    """Write a record file of new people."""
    pictures, who = portraits(people, each, rng)
    write_records(path, zip(who.tolist(), map(_jpeg, pictures), strict=True), (SIZE, SIZE))


def read_faces(path: Path) -> tuple[Tensor, Tensor]:
    """All of a record file: uint8 ``(n, 3, SIZE, SIZE)`` and the people int64 ``(n,)``."""
    pictures, people, _ = zip(*FaceRecords(path), strict=True)
    return torch.stack(pictures), torch.tensor(people)


def write_verification(path: Path, people: int, pairs: int, rng: np.random.Generator) -> None:
    """Write pairs of new pictures of new people: same and different in turn, and no person in two folds."""
    per_fold = people // FOLDS
    first = np.arange(pairs) * FOLDS // pairs * per_fold
    same = np.arange(pairs) % 2 == 0
    a = rng.integers(per_fold, size=pairs)
    b = np.where(same, a, (a + rng.integers(1, per_fold, size=pairs)) % per_fold)
    who = np.stack([first + a, first + b], 1).ravel()
    pictures = draw(take(sample(IDENTITY, people, rng), who), sample(VARIATION, len(who), rng), rng)
    write_pairs(path, PairSet([_jpeg(picture) for picture in pictures], same))


def write_contact_sheet(
    path: Path, pictures: Tensor, people: Tensor, rows: int = 8, columns: int = 10
) -> None:
    """Write a PNG with a row of pictures for each of the first people, at twice their size."""
    sheet = torch.cat(
        [torch.cat(list(pictures[people == person][:columns]), 2) for person in range(rows)], 1
    ).permute(1, 2, 0)
    image = Image.fromarray(sheet.numpy())
    with replacing(path) as file:
        image.resize((2 * image.width, 2 * image.height), Image.Resampling.LANCZOS).save(file, "PNG")


def _jpeg(picture: Pictures) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
