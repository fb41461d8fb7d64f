"""The embeddings of a net that is not trained: computed once for every image and its mirror image, kept on
disk, and checked before use.

A teacher does not change, nor does the student as it was deployed, so their answers are a table. It is read
as a memory map: a set of millions of images needs no more memory than one of thousands, and every later run
with the same net, input and images starts at once.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.faces import Embedder, FaceRecords, InputPreset, input_preset
from recipes.faces.signature import read_signature
from recipes.tsmr.progress import Progress
from recipes.tsmr.views import Images, Views
from reparam_kit import InputError, atomic_file

_SAMPLED = 64  # images that tell one dataset from another
_BATCH = 64  # images that the teacher is given at once


def model_identity(model: str | Path | nn.Module) -> str:
    """sha256 of an ONNX file and the files in which it keeps tensors, or of a module as it prints itself and
    its state_dict.

    Raises:
        InputError: a file cannot be read.
    """
    if isinstance(model, nn.Module):
        digest = hashlib.sha256(repr(model).encode())
        for name, tensor in model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()
    digest = hashlib.sha256()
    for path in (Path(model), *_external_files(Path(model))):
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _external_files(path: Path) -> list[Path]:
    graph = onnx.load(path, load_external_data=False).graph
    tensors = [tensor for tensor in graph.initializer if uses_external_data(tensor)]
    return [path.parent / name for name in sorted({ExternalDataInfo(tensor).location for tensor in tensors})]


@dataclass(frozen=True)
class Scaled(InputPreset):
    """A preset for a net that takes images of another size, ``(height, width)``: bilinear, with antialiasing."""

    size: tuple[int, int] = (112, 112)

    def __call__(self, images: Tensor) -> Tensor:
        scaled = F.interpolate(images.float(), self.size, mode="bilinear", antialias=True)
        return super().__call__(scaled)


def teacher_preset(teacher: str | Path | nn.Module, name: str, shape: torch.Size) -> InputPreset:
    """The preset ``name``; with scaling, where the teacher's file, also that of a module which was loaded from one,
    fixes another height and width than ``shape`` has.

    Raises:
        InputError: there is no such preset.
    """
    preset = input_preset(name)
    signature = read_signature(teacher)
    if signature is None or signature.size in (None, tuple(shape[-2:])):
        return preset
    return Scaled(**vars(preset), size=signature.size)


def data_identity(images: Images) -> str:
    """sha256 of what tells one set of images from another.

    That is its length, 64 of its images with their labels spread over it and, of a record file, its size; a
    copy of a data set is the same set.
    """
    length = len(images)  # type: ignore[arg-type]
    digest = hashlib.sha256(str(length).encode())
    if isinstance(images, FaceRecords):
        digest.update(str(images.records.path.stat().st_size).encode())
    for index in np.linspace(0, length - 1, min(length, _SAMPLED)).astype(int).tolist():
        image, label, _ = images[index]
        digest.update(image.numpy().tobytes() + str(label).encode())
    return digest.hexdigest()


def embedding_table(
    embed: Embedder,
    model: str,
    views: Views,
    data: str,
    folder: Path,
    *,
    flip: bool,
    workers: int,
    progress: Progress,
    who: str = "teacher",
) -> npt.NDArray[np.float16]:
    """Unit embeddings of all images: a read-only memory map, float16 ``[N, V, D]``.

    V is 2 with ``flip``, the image and its mirror image, and 1 without. The map is a ``.npy`` file in
    ``folder`` (made if needed) whose name comes from V, the input preset, and the identities of the ``model``
    and the ``data``; one that is there is used, one that is not is written whole or not at all.

    Raises:
        InputError: the model cannot take these images, or gives an embedding that is not finite, zero, or
            the same for every image; or the folder cannot be written to. The message calls the model ``who``.
    """
    sides = (False, True) if flip else (False,)
    name = hashlib.sha256(json.dumps([model, data, repr(embed.preset), len(sides)]).encode()).hexdigest()
    path = folder / f"{who.replace(' ', '-')}-{name[:16]}.npy"
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {folder} cannot be made: {error.strerror}") from error
        order = ((index, False) for index in range(len(views)))
        with atomic_file(path) as file, progress.task(who, len(views)) as task:
            for images, index, _ in views.batches(order, _BATCH, workers):
                rows = [embed(images.flip(-1) if side else images).numpy() for side in sides]
                if not task.done:
                    _refuse_constant(rows[0], who)
                    shape = (len(views), len(sides), rows[0].shape[1])
                    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                unit = np.stack([_unit(side, index, who) for side in rows], axis=1)
                file.write(unit.astype("<f2").tobytes())
                task.advance(len(images))
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def _unit(embeddings: npt.NDArray[np.float32], index: Tensor, who: str) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        raise InputError(
            f"the {who}'s embedding of training image {int(index[bad[0]])} is zero or not finite: "
            f"check the {who} and its input preset"
        )
    unit: npt.NDArray[np.float32] = embeddings / norms
    return unit


def _refuse_constant(embeddings: npt.NDArray[np.float32], who: str) -> None:
    spread = np.abs(embeddings - embeddings[:1]).max()
    if len(embeddings) > 1 and spread <= 1e-3 * np.abs(embeddings).max():
        raise InputError(
            f"the {who} gives the same embedding for each of {len(embeddings)} training images: "
            f"check the {who} and its input preset"
        )
