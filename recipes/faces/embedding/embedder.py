"""Images to embeddings, by a module or by an ONNX file, under one input preset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import length_hint
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from recipes.faces.embedding.inputs import InputPreset
from recipes.faces.embedding.signature import (
    EmbeddingOf,
    Signature,
    Taken,
    channels_advice,
    read_signature,
)
from recipes.faces.images.items import Item, item_image
from recipes.progress import watching
from reparam_kit import InputError, evaluating, first_line, open_session

_DTYPES = {"float32": torch.float32, "float16": torch.float16}


class Embedder:
    """A face net with its input preset.

    The net takes float32 ``[N, C, H, W]``, C being 3 or 1. The embedding is its output with several numbers an image,
    ``[N, D]`` or such as ``[N, D, 1, 1]``; where several outputs are of that kind, it has to be named.

    Args:
        model: a module, which runs in eval mode on the device and in the dtype of its parameters and is given back in
            the mode it was in; or the path of an ``.onnx`` file, which onnxruntime runs on the CPU. A file with a fixed
            batch size is given batches of that size.
        preset: what the net expects of its pixels, which are uint8; images in floating point are taken as they are.
        batch_size: images run at once, unless the file says otherwise.
        embedding: name of the output that is the embedding: as an ONNX file names it, the key of a dict, or ``0``,
            ``1`` and so on in a tuple. None: there is only one that can be.
        device: where onnxruntime runs a file, which has to be built for it: CUDA. None: the CPU.
        progress: show on stderr how many images of a set are done; within a run that shows its progress it is anyway.
        maps: whether its maps ``[N, C, H, W]`` are wanted, and no embeddings.

    Raises:
        InputError: the file is missing, is not a model that onnxruntime runs, or does not take one image batch.

    >>> embedder = Embedder("deployed.onnx", input_preset("insightface"))
    >>> embedder(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        preset: InputPreset,
        batch_size: int = 64,
        embedding: str | None = None,
        progress: bool = False,
        device: torch.device | None = None,
        maps: bool = False,
    ) -> None:
        self.model = model
        self.progress = progress
        self.preset = preset
        self.batch_size = batch_size
        self.embedding = embedding
        run = _ModuleRunner(model) if isinstance(model, nn.Module) else _OnnxRunner(Path(model), device)
        self._run: Callable[[torch.Tensor], object] = run
        who = "the model" if isinstance(model, nn.Module) else os.fspath(model)
        self._embedding_of = EmbeddingOf(run.signature, embedding, who, maps)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Embed one batch of images ``[N, C, H, W]``: float32 ``[N, D]`` on the CPU.

        Args:
            images: pixels in 0..255, uint8, RGB or of one channel; or floating point, already normalised.

        Raises:
            InputError: channels or size of the images are not those that the file has fixed; or no output is an
                embedding each, or several are and none is named.
        """
        return self.rows(images).cpu()

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        """Embed as a call does, where the model runs."""
        return self._embedding_of(self._run(self.preset.prepare(images)), len(images)).float()

    def embed(self, images: Iterable[Item], flip: bool = False) -> npt.NDArray[np.float32]:
        """Embed images of one size, batch by batch: float32 ``[N, D]``, not normalised.

        Args:
            images: the items of a dataset: uint8 arrays ``[H, W, 3]``, uint8 tensors ``[3, H, W]``, ``(tensor, label,
                index)`` and what else :func:`recipes.faces.images.items.item_image` takes.
            flip: add the embedding of each mirrored image, as InsightFace's protocol does.

        Raises:
            InputError: there is no image, the images differ in size, or their size is not the one the file has fixed.
        """
        rows = list(self.batches(images, flip))
        if not rows:
            raise InputError("there is no image to embed")
        return torch.cat(rows).numpy()

    def batches(self, images: Iterable[Item], flip: bool = False) -> Iterator[torch.Tensor]:
        """Embed as :meth:`embed` does, one batch after the other: float32 ``[B, D]`` on the CPU."""
        task = watching(self.progress).begin("embedding", length_hint(images) or None)
        try:
            for batch in _batches(images, self.batch_size):
                yield self(batch) + self(batch.flip(3)) if flip else self(batch)
                task.advance(len(batch))
        finally:
            task.stop()


def _batches(items: Iterable[Item], size: int) -> Iterator[torch.Tensor]:
    """Yield ``[N, C, H, W]``, all of one kind."""
    remaining = (item_image(item, f"image {number}") for number, item in enumerate(items))
    sizes: set[tuple[int, ...]] = set()
    kinds: set[torch.dtype] = set()
    while batch := list(islice(remaining, size)):
        sizes |= {tuple(image.shape) for image in batch}
        kinds |= {image.dtype for image in batch}
        if len(sizes) > 1:
            raise InputError(
                f"images of the sizes {sorted(sizes)} [C, H, W] cannot be one set: align the faces first"
            )
        if len(kinds) > 1:
            raise InputError(
                "images of uint8 and of floating point cannot be one set: presets are of uint8 alone"
            )
        yield torch.stack(batch)


class _ModuleRunner:
    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.signature = read_signature(model)
        self._batch = _fixed_batch(self.signature)

    def __call__(self, images: torch.Tensor) -> object:
        if self.signature is not None:
            self.signature.require_size("the model", images.shape[1:], "these are")
        like = next(self._model.parameters(), images)
        filled = _filled(images, self._batch)
        # Not inference_mode: a module may keep what it computes for its next training step.
        try:
            with evaluating(self._model), torch.no_grad():
                output = self._model(filled.to(like.device, like.dtype))
        except RuntimeError as error:
            reason = first_line(error)
            advice = channels_advice(images.shape[1]) if "channels" in reason else ""
            raise InputError(f"the model fails on images {list(images.shape)}: {reason}{advice}") from error
        if len(filled) == len(images):
            return output
        return tree_map_only(torch.Tensor, lambda rows: rows[: len(images)], output)


class _OnnxRunner:
    def __init__(self, path: Path, device: torch.device | None) -> None:
        self._session = open_session(path, cuda=None if device is None else device.index or 0)
        self.signature = Signature(
            tuple(_taken(node.name, node.type, node.shape) for node in self._session.get_inputs()),
            tuple(node.name for node in self._session.get_outputs()),
        )
        self.signature.require_images(str(path), tuple(_DTYPES))
        self._path = path
        given = self.signature.inputs[0]
        self._name, self._dtype = given.name, _DTYPES[given.dtype]
        self._batch = _fixed_batch(self.signature)

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.signature.require_size(str(self._path), images.shape[1:], "these are")
        chunks = torch.split(images.to(self._dtype), self._batch or len(images))
        outputs = [self._chunk(chunk) for chunk in chunks]
        return tuple(torch.cat(rows) for rows in zip(*outputs, strict=True))

    def _chunk(self, images: torch.Tensor) -> list[torch.Tensor]:
        filled = _filled(images, self._batch)
        try:
            outputs = self._session.run(None, {self._name: filled.cpu().numpy()})
        except Exception as error:  # onnxruntime's errors share no other class
            raise InputError(
                f"{self._path} fails on images {list(filled.shape)}: {first_line(error)}"
            ) from error
        short = len(filled) > len(images)
        return [_tensor(output)[: len(images) if short else None] for output in outputs]


def _fixed_batch(signature: Signature | None) -> int | None:
    """Return how many images the model takes at once; None where it takes any number."""
    shape = signature.inputs[0].shape if signature is not None and signature.inputs else None
    return shape[0] if shape else None


def _filled(images: torch.Tensor, batch: int | None) -> torch.Tensor:
    """Return ``images``, with as many black ones behind them as make the last batch full."""
    missing = -len(images) % (batch or 1)
    return torch.cat([images, images.new_zeros(missing, *images.shape[1:])]) if missing else images


def _tensor(output: object) -> torch.Tensor:
    """Texts and sequences are no embedding, and stand in messages as tensors of nothing."""
    if isinstance(output, np.ndarray) and output.dtype.kind in "bifu":
        return torch.from_numpy(np.atleast_1d(output))
    return torch.empty(0)


def _taken(name: str, kind: str, shape: list[int | str | None]) -> Taken:
    dtype = kind.removeprefix("tensor(").removesuffix(")")
    sizes = tuple(size if isinstance(size, int) else None for size in shape)
    return Taken(name, {"float": "float32"}.get(dtype, dtype), sizes)
