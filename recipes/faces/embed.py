"""Images to embeddings, by a module or by an ONNX file, under one input preset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from operator import length_hint
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn

from recipes.faces.inputs import InputPreset
from reparam_kit import InputError

Image = npt.NDArray[np.uint8] | torch.Tensor | tuple[torch.Tensor, int, int]


class Embedder:
    """A face net with its input preset.

    The net takes float32 ``[N, 3, H, W]``. Its output, or the first of several, is the embedding: what follows the first
    axis is flattened.

    Args:
        model: a module, which runs in eval mode on the device and in the dtype of its parameters and is given back in
            the mode it was in; or the path of an ``.onnx`` file, which onnxruntime runs on the CPU. A file with a fixed
            batch size is given batches of that size.
        preset: what the net expects of its pixels.
        batch_size: images run at once, unless the file says otherwise.

    Raises:
        InputError: the file is missing, is not a model that onnxruntime runs, or does not take one image batch.
    """

    def __init__(self, model: nn.Module | str | Path, preset: InputPreset, batch_size: int = 64) -> None:
        self.preset = preset
        self.batch_size = batch_size
        self._run: Callable[[torch.Tensor], torch.Tensor]
        if isinstance(model, nn.Module):
            self._run = _ModuleRunner(model)
        else:
            self._run = _OnnxRunner(Path(model))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Embed one batch of RGB images in 0..255, uint8 or floating ``[N, 3, H, W]``: float32 ``[N, D]`` on the CPU.

        Raises:
            InputError: the size of the images is not the one that the file has fixed.
        """
        output = self._run(self.preset(images))
        return output.reshape(len(images), -1)

    def embed(self, images: Iterable[Image], flip: bool = False) -> npt.NDArray[np.float32]:
        """Embed RGB images of one size, batch by batch: float32 ``[N, D]``, not normalised.

        Args:
            images: uint8 arrays ``[H, W, 3]``, uint8 tensors ``[3, H, W]``, or a dataset's ``(tensor, label, index)``.
            flip: add the embedding of each mirrored image, as InsightFace's protocol does.

        Raises:
            InputError: there is no image, the images differ in size, or their size is not the one the file has fixed.
        """
        rows: list[torch.Tensor] = []
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("embedding", total=length_hint(images) or None)
            for batch in _batches(images, self.batch_size):
                rows.append(self(batch) + self(batch.flip(3)) if flip else self(batch))
                progress.advance(task, len(batch))
        if not rows:
            raise InputError("there is no image to embed")
        return torch.cat(rows).numpy()


def _batches(images: Iterable[Image], size: int) -> Iterator[torch.Tensor]:
    """uint8 ``[N, 3, H, W]``."""
    remaining = map(_planes, images)
    while batch := list(islice(remaining, size)):
        sizes = {tuple(image.shape) for image in batch}
        if len(sizes) > 1:
            raise InputError(f"images of different sizes [3, H, W] cannot be one batch: {sorted(sizes)}; align the faces first")
        yield torch.stack(batch)


def _planes(image: Image) -> torch.Tensor:
    if isinstance(image, np.ndarray):
        return torch.from_numpy(image).permute(2, 0, 1)
    return image[0] if isinstance(image, tuple) else image


class _ModuleRunner:
    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        like = next(self._model.parameters(), images)
        # no_grad and not inference_mode: a module may keep what it computes for its next training step
        with _evaluating(self._model), torch.no_grad():
            output = self._model(images.to(like.device, like.dtype))
        embedding: torch.Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return embedding.float().cpu()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards each module's own mode: part of a net may have been frozen."""
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in training:
            module.training = mode


class _OnnxRunner:
    def __init__(self, path: Path) -> None:
        import onnxruntime

        if not path.is_file():
            raise InputError(f"there is no model file {path}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its warnings are about its own optimisations
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no base class of their own
            raise InputError(f"{path} is not a model that onnxruntime runs: {str(error).splitlines()[0]}") from error
        self._path = path
        inputs = self._session.get_inputs()
        ...
