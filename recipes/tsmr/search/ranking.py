"""How surely a trial is better: all figures of a judge weigh, each by what its examples can show.

One figure alone chooses by chance where few examples decide it. How many standard errors it lies from the deployed
model's can be averaged over figures of every kind.
"""

from __future__ import annotations

import math
from statistics import mean

from recipes.faces import Comparison
from recipes.faces.judging.verdict import Difference

_WIDTH = 2 * 1.96  # standard errors, of an interval of 95 %
_MOST = 30.0  # standard errors that one figure weighs: where all examples agree there is no end to them


def surely_better(comparison: Comparison) -> float | None:
    """Return by how many standard errors a model is better than the one before, the mean over its figures; None where
    no figure of it was tested.
    """
    found = [errors for errors in map(_errors, comparison.differences) if errors is not None]
    tested = any(one.interval is not None for one in comparison.differences)
    return mean(found) if tested and found else None


def _errors(difference: Difference) -> float | None:
    """Return by how many standard errors a figure got better; None where that cannot be told."""
    before, after, ends = difference.before, difference.after, difference.interval
    if before.value is None:
        return None
    if after.value is None:
        return -_MOST
    gained = after.goodness - before.goodness
    if ends is None or not math.isfinite(gained):
        return None
    error = abs(ends[1] - ends[0]) / _WIDTH
    errors = gained / error if error else math.copysign(_MOST, gained) * bool(gained)
    return None if math.isnan(errors) else max(-_MOST, min(_MOST, errors))
