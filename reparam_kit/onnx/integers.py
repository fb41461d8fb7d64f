"""How many of the integers that a quantised file stores differ after training, and how many are at an end for want of
levels beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reparam_kit.onnx.provenance import Provenance
from reparam_kit.onnx.weights import OnnxFile, parse_onnx, stored_tensors

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class IntegerCount:
    """Integers of a file's weights.

    Attributes:
        total: of all weights that the file quantises.
        changed: which are not those of the file.
        clipped: of whose weights a level beyond the first or the last would be nearest.

    >>> print(IntegerCount(total=216, changed=31, clipped=0))
    31 of 216 integers changed, 0 clipped to the first or last level
    """

    total: int
    changed: int
    clipped: int

    def __str__(self) -> str:
        changed = f"{self.changed:,} of {self.total:,} integers changed"
        return f"{changed}, {self.clipped:,} clipped to the first or last level"


def count_integers(module: nn.Module) -> IntegerCount | None:
    """Return how many integers of the file that ``module`` was imported from ``save`` would change; ``None`` where it
    has no quantised weights, or the module did not come from ONNX.

    Of weights that the file stores as numbers and quantises in every pass, it is these integers.

    Raises:
        InputError: ``module`` has one of its weights in another size.

    >>> count_integers(load("deployed.onnx")) is None  # it is in floating point
    True
    """
    provenance: Provenance | None = getattr(module, "meta", {}).get("onnx")
    if provenance is None or not any(source.grid for source in provenance.tensors.values()):
        return None
    original = OnnxFile(parse_onnx(provenance.payload, "the original"), provenance.external)
    stored, state = stored_tensors(original.model), module.state_dict()
    total = changed = clipped = 0
    once = {source.key: (name, source) for name, source in provenance.tensors.items() if name in state}
    for name, source in once.values():
        if source.grid is None:
            continue
        before, after = source.levels(original.read(stored[source.key]), state[name])
        written = np.clip(after, *source.grid.ends)
        total += after.size
        changed += int((written != np.clip(before, *source.grid.ends)).sum())
        clipped += int((written != after).sum())
    return IntegerCount(total, changed, clipped)
