"""Where every tensor of an imported model came from, and how it goes back.

An imported model carries one :class:`Provenance` in ``model.meta["onnx"]``. It holds the file as it was read, so that
writing back can start from those very bytes, and says for each parameter and buffer which ONNX tensor it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reparam_kit.errors import InputError
from reparam_kit.onnx.keys import TensorKey

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Grid:
    """What the integers of a quantised tensor stand for: ``(level - zero) * scale``.

    ``scale`` (floating point) and ``zero`` (integers) broadcast to the ONNX tensor. ``ends`` are the first and the last
    level.
    """

    scale: NDArray[Any]
    zero: NDArray[Any]
    ends: tuple[int, int]

    def values(self, levels: NDArray[Any]) -> NDArray[Any]:
        """Return what ``levels`` stand for, in the dtype of the scale."""
        difference = levels.astype(self.scale.dtype) - self.zero.astype(self.scale.dtype)
        with np.errstate(over="ignore"):
            return np.asarray(difference * self.scale)  # numpy makes a number of a product of scalars

    def levels(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the nearest level for each of ``values``, the first or last for those beyond; NaN where one is not
        finite.
        """
        with np.errstate(all="ignore"):
            nearest = np.rint(values.astype(np.float64) / self.scale) + self.zero
        return np.where(np.isfinite(values), np.clip(nearest, *self.ends), np.nan)


@dataclass(frozen=True)
class Source:
    """The ONNX tensor that a parameter or buffer was read from.

    ``permutation`` is the order of the torch dimensions in the ONNX layout (``None``: the same);
    after it, the tensor is reshaped to ``shape``, the ONNX shape (``()`` for a scalar). With a ``grid`` the ONNX tensor
    holds integers, which a ``DequantizeLinear`` turns into the numbers that torch has.
    """

    key: TensorKey
    permutation: tuple[int, ...] | None
    shape: tuple[int, ...]
    grid: Grid | None = None

    def to_onnx(self, tensor: Tensor) -> NDArray[Any]:
        """Return ``tensor`` in the layout of the ONNX tensor: shape ``self.shape``, dtype of ``tensor`` (bfloat16 as
        float32).

        Raises :class:`InputError` when the number of elements is not that of the ONNX tensor.
        """
        import torch  # comparing two files does without

        if tensor.numel() != prod(self.shape):
            raise InputError(
                f"a tensor of shape {list(tensor.shape)} does not fit {self.key} "
                f"of shape {list(self.shape)}; the layer's size must stay as it was in the file"
            )
        value = tensor.detach().cpu()
        if value.dtype is torch.bfloat16:
            value = value.float()
        if self.permutation is not None:
            value = value.permute(self.permutation)
        return np.ascontiguousarray(value.reshape(self.shape).numpy()).reshape(self.shape)


@dataclass(frozen=True)
class Provenance:
    """The file behind an imported model.

    ``payload`` is the content of the ``.onnx`` file, byte for byte. ``external`` holds the files in which it keeps
    tensors outside itself: location as written in the model -> content.

    ``tensors`` maps names of ``state_dict()`` to their :class:`Source`. Several names may have one source (a weight
    that the file uses twice); they hold one value and must still when written back. A tensor that is missing was
    computed at import from others, or exists in torch only (``num_batches_tracked``): the file has no place for it, and
    such a parameter does not require a gradient.
    """

    path: Path | None
    payload: bytes
    tensors: Mapping[str, Source]
    external: Mapping[str, bytes] = field(default_factory=dict)
