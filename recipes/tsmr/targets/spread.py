"""How far above unrelated faces a pair lies: what two nets whose embeddings differ in size can agree on.

Unrelated faces of a 512-d net have cosines within 0.06, of a 128-d one hardly less than within 0.10, whatever it
learns. So neither coordinates nor similarities can be taken over from one to the other, but positions in units of that
spread, which each net has for itself, can.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ALIKE = 7.0  # from where the teacher calls two images one person
DIFFERENT = 4.0  # and below which it calls them two people; nothing is said of what lies between
MARGIN = 4.7  # where the student is to tell them apart: of unrelated pairs, one in 100,000 lies above

_NORMAL = 1.4826  # standard deviations in a median absolute deviation, of a normal distribution
_LEAST = 1e-3


@dataclass(frozen=True)
class Spread:
    """How the cosines of unrelated faces are spread in the space of a net.

    Attributes:
        middle: their median.
        width: their standard deviation, told by the median absolute deviation: the few pairs of one person that are
            among them do not count.
    """

    middle: float
    width: float

    @classmethod
    def of(cls, embeddings: Tensor) -> Spread:
        """Measure it over all pairs of some rows, ``[N, D]``."""
        unit = F.normalize(embeddings.float(), dim=1)
        first, second = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
        cosines = (unit @ unit.T)[first, second]
        middle = cosines.median()
        return cls(float(middle), max(_NORMAL * float((cosines - middle).abs().median()), _LEAST))

    def cosine(self, units: float) -> float:
        """Return the cosine that lies so many widths above the middle."""
        return self.middle + units * self.width
