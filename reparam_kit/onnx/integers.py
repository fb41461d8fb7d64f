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
        rescaled: how many weights have a new scale.
        scales: how many may have one; 0 where all scales are kept.

    >>> print(IntegerCount(total=216, changed=31, clipped=0))
    31 of 216 integers changed, 0 clipped to the first or last level
    >>> print(IntegerCount(total=216, changed=31, clipped=0, rescaled=1, scales=2))
    31 of 216 integers changed, 0 clipped to the first or last level, 1 of 2 scales changed
    """

    total: int
    changed: int
    clipped: int
    rescaled: int = 0
    scales: int = 0

    def __str__(self) -> str:
        changed = f"{self.changed:,} of {self.total:,} integers changed"
        clipped = f"{changed}, {self.clipped:,} clipped to the first or last level"
        return f"{clipped}, {self.rescaled} of {self.scales} scales changed" if self.scales else clipped


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
    scales = provenance.new_scales(module)
    once = {source.key: (name, source) for name, source in provenance.tensors.items() if name in state}
    for name, source in once.values():
        if source.grid is None:
            continue
        numbers = original.read(stored[source.key])
        before, after = source.levels(numbers, state[name])
        if name in scales:
            after = source.rescaled(scales[name][0]).levels(numbers, state[name])[1]
        written = np.clip(after, *source.grid.ends)
        total += after.size
        changed += int((written != np.clip(before, *source.grid.ends)).sum())
        clipped += int((written != after).sum())
    places = provenance.scales or {}
    return IntegerCount(total, changed, clipped, len(scales.keys() & places.keys()), len(places))
