"""Images to embeddings, by a module or by an ONNX file, under one input preset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from operator import length_hint
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from recipes.faces.inputs import InputPreset
from reparam_kit import InputError, evaluating, first_line

Image = npt.NDArray[np.uint8] | torch.Tensor | tuple[torch.Tensor, int, int]

_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}


class Embedder:
    """A face net with its input preset.

    The net takes float32 ``[N, 3, H, W]``. Its output, or the first of several, is the embedding; what follows
    the first axis is flattened.

    Args:
        model: a module, which runs in eval mode on the device and in the dtype of its parameters and is given back in
            the mode it was in; or the path of an ``.onnx`` file, which onnxruntime runs on the CPU. A file with a fixed
            batch size is given batches of that size.
        preset: what the net expects of its pixels.
        batch_size: images run at once, unless the file says otherwise.

    Raises:
        InputError: the file is missing, is not a model that onnxruntime runs, or does not take one image batch.
    """

    def __init__(
        self, model: nn.Module | str | os.PathLike[str], preset: InputPreset, batch_size: int = 64
    ) -> None:
        self.preset = preset
        self.batch_size = batch_size
        self._run: Callable[[torch.Tensor], torch.Tensor]
        self._run = _ModuleRunner(model) if isinstance(model, nn.Module) else _OnnxRunner(Path(model))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Embed one batch of RGB images in 0..255, uint8 or floating ``[N, 3, H, W]``: float32 ``[N, D]`` on the CPU.

        Raises:
            InputError: the size of the images is not the one that the file has fixed, or the output is not one row an
                image.
        """
        output = self._run(self.preset(images))
        if output.ndim < 2 or len(output) != len(images):
            raise InputError(
                f"the model gives {list(output.shape)} for {len(images)} images, not one embedding each"
            )
        return output.flatten(1)

    def embed(self, images: Iterable[Image], flip: bool = False) -> npt.NDArray[np.float32]:
        """Embed RGB images of one size, batch by batch: float32 ``[N, D]``, not normalised.

        Args:
            images: uint8 arrays ``[H, W, 3]``, uint8 tensors ``[3, H, W]``, or a dataset's ``(tensor, label, index)``.
            flip: add the embedding of each mirrored image, as InsightFace's protocol does.

        Raises:
            InputError: there is no image, the images differ in size, or their size is not the one the file has fixed.
        """
        rows = list(self.batches(images, flip))
        if not rows:
            raise InputError("there is no image to embed")
        return torch.cat(rows).numpy()

    def batches(self, images: Iterable[Image], flip: bool = False) -> Iterator[torch.Tensor]:
        """As :meth:`embed`, one batch after the other: float32 ``[B, D]`` on the CPU."""
        console = Console(stderr=True)
        progress = Progress(console=console, transient=True)
        with progress if console.is_terminal else nullcontext():  # elsewhere older rich leaves an empty line
            task = progress.add_task("embedding", total=length_hint(images) or None)
            for batch in _batches(images, self.batch_size):
                yield self(batch) + self(batch.flip(3)) if flip else self(batch)
                progress.advance(task, len(batch))


def _batches(images: Iterable[Image], size: int) -> Iterator[torch.Tensor]:
    """uint8 ``[N, 3, H, W]``."""
    remaining = map(_planes, images)
    while batch := list(islice(remaining, size)):
        sizes = {tuple(image.shape) for image in batch}
        if len(sizes) > 1:
            raise InputError(
                f"images of the sizes {sorted(sizes)} [3, H, W] cannot be one batch: align the faces first"
            )
        yield torch.stack(batch)


def _planes(image: Image) -> torch.Tensor:
    if isinstance(image, np.ndarray):
        # Copied, because it may be read-only or a reversed view, which torch does not take.
        planes = torch.from_numpy(image.copy()).movedim(-1, 0)
    else:
        planes = image[0] if isinstance(image, tuple) else image
    if planes.dtype != torch.uint8 or planes.ndim != 3 or len(planes) != 3:
        raise InputError(f"an image of {planes.dtype} {list(planes.shape)} is not uint8 RGB in 0..255")
    return planes


class _ModuleRunner:
    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        like = next(self._model.parameters(), images)
        # Not inference_mode: a module may keep what it computes for its next training step.
        try:
            with evaluating(self._model), torch.no_grad():
                output = self._model(images.to(like.device, like.dtype))
        except RuntimeError as error:
            raise InputError(
                f"the model fails on images {list(images.shape)}: {first_line(error)}"
            ) from error
        embedding: torch.Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return embedding.float().cpu()


class _OnnxRunner:
    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"there is no model file {path}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its warnings are about its own optimisations
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no other class
            raise InputError(f"{path} is not a model that onnxruntime runs: {first_line(error)}") from error
        inputs = self._session.get_inputs()
        shapes = ", ".join(f"{node.name} {node.type} {node.shape}" for node in inputs)
        if len(inputs) != 1 or inputs[0].type not in _DTYPES or len(inputs[0].shape) != 4:
            raise InputError(f"{path} takes {shapes}; an embedding model takes one float [N, 3, H, W]")
        self._path = path
        self._name = inputs[0].name
        self._dtype = _DTYPES[inputs[0].type]
        batch, *sizes = (size if isinstance(size, int) else None for size in inputs[0].shape)
        self._batch, self._sizes = batch, sizes

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        given = list(images.shape[1:])
        if any(size not in (None, have) for size, have in zip(self._sizes, given, strict=True)):
            raise InputError(f"{self._path} takes images [3, H, W] of {self._sizes}, and these are {given}")
        chunks = torch.split(images.to(self._dtype), self._batch or len(images))
        return torch.cat([self._chunk(chunk) for chunk in chunks]).float()

    def _chunk(self, images: torch.Tensor) -> torch.Tensor:
        missing = self._batch - len(images) if self._batch else 0
        filled = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
        try:
            outputs = self._session.run(None, {self._name: filled.numpy()})
        except Exception as error:  # as above
            raise InputError(
                f"{self._path} fails on images {list(filled.shape)}: {first_line(error)}"
            ) from error
        return torch.from_numpy(outputs[0])[: len(images)]
