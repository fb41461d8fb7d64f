"""The embeddings of a net that is not trained: computed once for every image and its mirror image, kept on
disk, and checked before use.

A teacher does not change, nor does the student as it was deployed, so their answers are a table. It is read
as a memory map: a set of millions of images needs no more memory than one of thousands, and every later run
with the same net, input and images starts at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.faces import Embedder, InputPreset, input_preset
from recipes.faces.embedding.signature import read_signature
from recipes.tsmr.progress import Progress
from recipes.tsmr.targets.description import described
from recipes.tsmr.targets.identity import data_identity as data_identity
from recipes.tsmr.targets.identity import made_folder
from recipes.tsmr.targets.identity import model_identity as model_identity
from recipes.tsmr.targets.table import BLOCK, TableFile
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError, __version__, fingerprint

_CHECKED = 8  # rows of a table that are computed again before it is used
_ALIKE = 0.999  # cosine of two computations of one embedding: float16 costs 1e-7, TF32 and other batches 1e-5


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
    ``folder`` (made if needed) whose name comes from N, V, the embedder, and the identity of the ``model``. Of
    one that is there, blocks that match their checksums, which are over the identity of the ``data`` too, are
    used, if some of their rows are what the model gives now; all others are computed. An interrupted pass
    leaves what it has computed.

    Raises:
        InputError: the model cannot take these images, or gives an embedding that is not finite, zero, or
            the same for every image; or the folder cannot be written to. The message calls the model ``who``.
    """
    sides = (False, True) if flip else (False,)
    shape = tuple(views.shape)
    asked = [__version__, model, shape, described(embed.preset), embed.embedding, len(sides)]
    # Not by the data: images that were exchanged have their rows computed into the file of those that are gone.
    name = f"{who.replace(' ', '-')}-{fingerprint([*asked, len(views)])[:16]}.npy"
    table = TableFile(folder / name, fingerprint([*asked, data]), len(views), len(sides))
    made_folder(folder)

    def embeddings(images: Tensor, index: Tensor) -> npt.NDArray[np.float32]:
        rows = [embed(images.flip(-1) if side else images).numpy() for side in sides]
        return np.stack([_unit(side, index, who) for side in rows], axis=1)

    sound = table.sound()
    if sound.any() and not _agrees(table, sound, views, embeddings):
        progress.say(f"{table.path}: its rows are not what the {who} gives, all are computed anew")
        sound[:] = False
    elif table.path.exists() and not sound.all():
        progress.say(
            f"{table.path}: {np.count_nonzero(sound)} of its {len(sound)} blocks are there and sound, "
            "the others are computed"
        )
    if not sound.any():
        table.size = 0
    missing = np.flatnonzero(~np.repeat(sound, BLOCK)[: len(views)]).tolist()
    if missing:
        with progress.task(who, len(missing)) as task:
            for images, index, _ in views.batches(((at, False) for at in missing), BLOCK, workers):
                rows = embeddings(images, index)
                if not task.done:
                    refuse_constant(rows[:, 0], who)
                if not table.size:
                    table.create(rows.shape[2])
                table.write(int(index[0]) // BLOCK, rows)
                task.advance(len(images))
    return table.rows()


def _agrees(
    table: TableFile,
    sound: npt.NDArray[np.bool_],
    views: Views,
    embeddings: Callable[[Tensor, Tensor], npt.NDArray[np.float32]],
) -> bool:
    """Whether some rows of the sound blocks, other ones each time, are what is computed for their images now."""
    there = np.flatnonzero(np.repeat(sound, BLOCK)[: len(views)])
    index = np.sort(np.random.default_rng().choice(there, min(len(there), _CHECKED), replace=False))
    images = torch.stack([views[int(at), False][0] for at in index])
    now = embeddings(images, torch.from_numpy(index))
    then = table.rows()[index].astype(np.float32)
    return now.shape == then.shape and bool(((now * then).sum(axis=2) > _ALIKE).all())


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


def refuse_constant(embeddings: npt.NDArray[np.float32], who: str) -> None:
    """Raise InputError where ``embeddings`` ``[N, D]`` of different images are all the same."""
    spread = np.abs(embeddings - embeddings[:1]).max()
    if len(embeddings) > 1 and spread <= 1e-3 * np.abs(embeddings).max():
        raise InputError(
            f"the {who} gives the same embedding for each of {len(embeddings)} training images: "
            f"check the {who} and its input preset"
        )
