"""The teacher's embeddings: computed once for every image and its mirror image, kept on disk, and checked before use.

The teacher does not change, so its answers are a table. It is read as a memory map: a set of millions of images needs no more
memory than one of thousands, and every later run with the same teacher, input and images starts at once.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from recipes.faces import Embedder, FaceRecords, input_preset
from recipes.faces.files import replacing
from recipes.tsmr.progress import Progress
from recipes.tsmr.views import Images, Views
from reparam_kit import InputError

_SAMPLED = 64
_BATCH = 64


def model_identity(model: str | Path | nn.Module) -> str:
    """sha256 of a file's content, or of a module's structure as it prints itself and its state_dict."""
    if not isinstance(model, nn.Module):
        try:
            with Path(model).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(f"{model} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def data_identity(images: Images) -> str:
    """sha256 of what tells one set of images from another.

    That is its length, 64 of its images spread over it and, of a record file, size and time of the last change.
    """
    length = len(images)  # type: ignore[arg-type]
    digest = hashlib.sha256(str(length).encode())
    if isinstance(images, FaceRecords):
        status = images.records.path.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    for index in np.linspace(0, length - 1, min(length, _SAMPLED)).astype(int).tolist():
        digest.update(images[index][0].numpy().tobytes())
    return digest.hexdigest()


def teacher_embeddings(
    teacher: str | Path | nn.Module,
    preset: str,
    views: Views,
    folder: Path,
    *,
    flip: bool,
    workers: int,
    progress: Progress,
) -> npt.NDArray[np.float16]:
    """Unit embeddings of all images: a read-only memory map, float16 ``[N, V, D]``.

    V is 2 with ``flip``, the image and its mirror image, and 1 without. The map is a ``.npy`` file in ``folder`` whose name
    comes from teacher, preset, images and V; one that is there already is used, one that is not is written whole or not
    at all.

    Raises:
        InputError: the teacher cannot be read, cannot take these images, or gives an embedding that is not finite, zero, or
            the same for every image; or the folder cannot be written to.
    """
    sides = (False, True) if flip else (False,)
    key = {
        "teacher": model_identity(teacher),
        "input": repr(input_preset(preset)),
        "images": data_identity(views.images),
        "sides": len(sides),
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"teacher-{name}.npy"
    if not path.is_file():
        _compute(Embedder(teacher, input_preset(preset)), views, sides, path, workers, progress)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _compute(
    embed: Embedder, views: Views, sides: tuple[bool, ...], path: Path, workers: int, progress: Progress
) -> None:
    """Write the embeddings row by row, the header first: nothing but one batch is in memory."""
    order = [(index, side) for index in range(len(views)) for side in sides]
    with replacing(path) as file, progress.task("teacher", len(order)) as bar:
        size = None
        for images, index, _ in views.batches(order, _BATCH, workers):
            embeddings = _checked(embed(images), index)
            if size is None:
                size = embeddings.shape[1]
                header = {"descr": "<f2", "fortran_order": False, "shape": (len(views), len(sides), size)}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(embeddings.half().numpy().astype("<f2").tobytes())
            bar.advance(len(images))
