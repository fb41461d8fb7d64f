"""The float net that a file was quantised from: where its integers lay between two levels before they were rounded.

Weights of a quantised net that start there, not at their levels, need fewer steps to reach the next level, or are held
back by half of one. The twin's weights are found by their numbers, for quantisers change names, and some the layout.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from reparam_kit.errors import InputError, printable
from reparam_kit.onnx.provenance import FakeGrid, Grid, Provenance
from reparam_kit.onnx.weights import OnnxFile, read_onnx, weights

_log = logging.getLogger(__name__)

_ALIKE = 0.95  # share of a weight's levels that those of the twin must be at most one from
_Arrays = Mapping[tuple[int, ...], list[NDArray[Any]]]


def start_at(model: fx.GraphModule, name: str | Path) -> None:
    """Let the weights of ``model`` that its file stores as integers start at the numbers of the float net, in place.

    A number that would be rounded to another level than the file has goes to the nearest that is not: the model
    computes what it did before. A weight that the twin does not have stays at its levels, which a warning says.

    Raises:
        InputError: the file stores no weights as integers, or the twin has none of them or cannot be read.
    """
    twin = read_onnx(name)
    provenance: Provenance = model.meta["onnx"]
    parameters = dict(model.named_parameters())
    quantised = {
        source.key: (parameters[key], source)
        for key, source in provenance.tensors.items()
        if key in parameters and source.grid is not None and not isinstance(source.grid, FakeGrid)
    }
    if not quantised:
        raise InputError(f"{provenance.path} stores no weights as integers, so that it takes no float twin")
    arrays, missing = _arrays(twin, name), []
    for key, (parameter, source) in quantised.items():
        levels = source.levels(source.to_onnx(parameter), parameter)[1]
        assert source.grid is not None
        found = _nearest(source.grid, levels, arrays)
        if found is None:
            missing.append(key)
        else:
            start = source.from_grid(_within(source.grid, levels, found))
            parameter.data.copy_(torch.from_numpy(start.reshape(parameter.shape)))
    if len(missing) == len(quantised):
        raise InputError(
            f"{provenance.path} was not quantised from {name}: none of its {len(quantised)} weights rounds to integers "
            "of the file"
        )
    if missing:
        _log.warning(
            "%s has no weight that rounds to %s%s: they start at their integers",
            printable(str(name)),
            printable(str(missing[0])),
            f" and {len(missing) - 1} more of {len(quantised)}" if missing[1:] else "",
        )


def _arrays(twin: OnnxFile, path: str | Path) -> _Arrays:
    """Return the weights of the twin, as it is and with what a quantiser fuses first, by their shapes."""
    from reparam_kit.onnx.run import fused  # onnxruntime, which an import does without

    files, arrays = [twin], defaultdict[tuple[int, ...], list[NDArray[Any]]](list)
    with suppress(InputError):  # a file that onnxruntime does not know all of was quantised by others
        files.append(OnnxFile(fused(path), {}))
    for file in files:
        for tensor in weights(file.model).values():
            array = file.read(tensor).astype(np.float32)
            for each in (array, array.T) if array.ndim == 2 else (array,):
                arrays[each.shape].append(each)
    return arrays


def _nearest(grid: Grid, levels: NDArray[Any], arrays: _Arrays) -> NDArray[Any] | None:
    """Return the one of ``arrays`` that rounds to ``levels`` best; ``None`` where none is alike."""
    best, share = None, _ALIKE
    for array in arrays.get(levels.shape, ()):
        distance = np.abs(grid.stored(array) - levels)
        alike = float((distance <= 1).mean() + (distance == 0).mean()) / 2 if levels.size else 0.0
        if (distance <= 1).mean() >= _ALIKE and (best is None or alike > share):
            best, share = array, alike
    return best


def _within(grid: Grid, levels: NDArray[Any], numbers: NDArray[Any]) -> NDArray[Any]:
    """Return ``numbers``, those that are not rounded to ``levels`` at the edge of what is.

    So are those beyond the first and the last level, where they would have no gradient.
    """
    at = np.clip(numbers.astype(np.float64) / grid.scale + grid.zero, levels - 0.499, levels + 0.499)
    moved = ((at - grid.zero) * grid.scale).astype(np.float32)
    start = np.where(grid.nearest(numbers) == levels, numbers, moved)
    return np.where(
        grid.nearest(start) == levels, start, grid.values(levels)
    )  # of levels too large to be between
