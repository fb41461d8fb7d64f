"""The embeddings of a net that is not trained: computed once for every image in some views, kept on disk, and
checked before use.

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
from recipes.tsmr.targets.showing import Showing, Shown
from recipes.tsmr.targets.table import BLOCK, TableFile
from reparam_kit import InputError, __version__, fingerprint

_CHECKED = 8  # rows of a table that are computed again before it is used
_ALIKE = 0.999  # cosine of two computations of one embedding: float16 costs 1e-7, TF32 and other batches 1e-5


@dataclass(frozen=True)
class Scaled(InputPreset):
    """A preset for a net that takes images of another size, ``(height, width)``: bilinear, with antialiasing."""

    size: tuple[int, int] = (112, 112)

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(self._scaled(images))

    def prepare(self, images: Tensor) -> Tensor:
        return self(images) if images.dtype == torch.uint8 else self._scaled(images)

    def _scaled(self, images: Tensor) -> Tensor:
        return F.interpolate(images.float(), self.size, mode="bilinear", antialias=True)


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
    showing: Showing,
    data: str,
    folder: Path,
    *,
    workers: int,
    progress: Progress,
    who: str = "teacher",
) -> npt.NDArray[np.float16]:
    """Unit embeddings of all images in the views ``showing.columns``: a read-only memory map, float16 ``[N, V, D]``.

    The map is a ``.npy`` file in ``folder`` (made if needed) whose name comes from N, the views, the embedder, and the
    identity of the ``model``. Of
    one that is there, blocks that match their checksums, which are over the identity of the ``data`` too, are
    used, if some of their rows are what the model gives now; all others are computed. An interrupted pass
    leaves what it has computed.

    Raises:
        InputError: the model cannot take these images, or gives an embedding that is not finite, zero, or
            the same for every image; or the folder cannot be written to. The message calls the model ``who``.
    """
    images, shape = len(showing), tuple(showing.views.shape)
    asked = [__version__, model, shape, described(embed.preset), embed.embedding, *showing.told]
    # Not by the data: images that were exchanged have their rows computed into the file of those that are gone.
    name = f"{who.replace(' ', '-')}-{fingerprint([*asked, images])[:16]}.npy"
    table = TableFile(folder / name, fingerprint([*asked, data]), images, len(showing.columns))
    made_folder(folder)

    def embeddings(shown: Shown) -> npt.NDArray[np.float32]:
        rows = [unit_rows(embed(view), shown.number, who) for view in shown.images.unbind(1)]
        return torch.stack(rows, dim=1).numpy()

    sound = table.sound()
    if sound.any() and not _agrees(table, sound, showing, embeddings):
        progress.say(f"{table.path}: its rows are not what the {who} gives, all are computed anew")
        sound[:] = False
    elif table.path.exists() and not sound.all():
        progress.say(
            f"{table.path}: {np.count_nonzero(sound)} of its {len(sound)} blocks are there and sound, "
            "the others are computed"
        )
    if not sound.any():
        table.size = 0
    missing = np.flatnonzero(~np.repeat(sound, BLOCK)[:images]).tolist()
    if missing:
        with progress.task(who, len(missing)) as task:
            for shown in showing.stored(missing, BLOCK, workers):
                rows = embeddings(shown)
                if not task.done:
                    refuse_constant(rows[:, 0], who)
                if not table.size:
                    table.create(rows.shape[2])
                table.write(int(shown.number[0]) // BLOCK, rows)
                task.advance(len(rows))
    return table.rows()


def _agrees(
    table: TableFile,
    sound: npt.NDArray[np.bool_],
    showing: Showing,
    embeddings: Callable[[Shown], npt.NDArray[np.float32]],
) -> bool:
    """Whether some rows of the sound blocks, other ones each time, are what is computed for their images now."""
    there = np.flatnonzero(np.repeat(sound, BLOCK)[: len(showing)])
    index = np.sort(np.random.default_rng().choice(there, min(len(there), _CHECKED), replace=False))
    (shown,) = showing.stored(index.tolist(), len(index), workers=0)
    now = embeddings(shown)
    then = table.rows()[index].astype(np.float32)
    return now.shape == then.shape and bool(((now * then).sum(axis=2) > _ALIKE).all())


def unit_rows(embeddings: Tensor, index: Tensor, who: str) -> Tensor:
    """Embeddings of images ``index`` at length 1, float32 ``[N, D]``; InputError where one is zero or not finite."""
    norms = embeddings.norm(dim=1, keepdim=True)
    bad = ((norms == 0) | ~norms.isfinite()).flatten()
    if bad.any():
        raise InputError(
            f"the {who}'s embedding of training image {int(index[bad.cpu()][0])} is zero or not finite: "
            f"check the {who} and its input preset"
        )
    unit: Tensor = embeddings / norms
    return unit


def refuse_constant(embeddings: npt.NDArray[np.float32], who: str) -> None:
    """Raise InputError where ``embeddings`` ``[N, D]`` of different images are all the same."""
    spread = np.abs(embeddings - embeddings[:1]).max()
    if len(embeddings) > 1 and spread <= 1e-3 * np.abs(embeddings).max():
        raise InputError(
            f"the {who} gives the same embedding for each of {len(embeddings)} training images: "
            f"check the {who} and its input preset"
        )
