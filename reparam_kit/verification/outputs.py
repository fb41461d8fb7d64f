"""Running two models on the same inputs, and how far apart that leaves them.

Exactness is a number here, relative to the scale of the output. Two modules are both held against the float64 run of
the first: the second may be no further from it than twice the distance at which the first, in its own precision,
already is. Where a file takes part there is no such run, and a fixed tolerance stands in for it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reparam_kit.onnx.run import Session, has_free_batch, random_inputs
from reparam_kit.verification.report import OutputError

Model = nn.Module | str | Path
Outputs = dict[str, Tensor]
Runner = Callable[[Sequence[Tensor]], Outputs]

# Of the output's scale, where a file takes part; or a few epsilons of the output's dtype, if that is more.
_FILE_TOLERANCE = 1e-5
_EPSILONS = 4
# The largest of fewer errors than these is chance, and no measure of how far away a model is.
_ENOUGH = 64


def compare_module_outputs(
    a: nn.Module, b: nn.Module, inputs: Sequence[Tensor]
) -> tuple[tuple[OutputError, ...], str]:
    """Errors of ``b`` on ``inputs``, and a note on how it was judged.

    Where an output has few numbers, further runs on ``inputs`` that are moved by about 0.1 % add to them.
    """
    first, second = _frozen(a), _frozen(b)
    run_first, run_second = _module(first), _module(second)
    fewest = min((out.numel() for out in run_first(inputs).values() if out.numel()), default=_ENOUGH)
    generator = torch.Generator().manual_seed(0)
    runs = [inputs, *([_moved(x, generator) for x in inputs] for _ in range(math.ceil(_ENOUGH / fewest) - 1))]
    of_first, of_second = ([run(x) for x in runs] for run in (run_first, run_second))
    try:
        run_truth = _module(first.double())
        truth = [run_truth([x.double() if x.is_floating_point() else x for x in run]) for run in runs]
    except (RuntimeError, TypeError):
        # Its forward makes tensors of a dtype of its own, which do not go with float64 weights.
        errors = _errors(of_first, of_second, {})
        return errors, f"a does not run in float64: b is held against a itself, tolerance {_FILE_TOLERANCE}"
    tolerances = {
        error.name: 2 * max(error.relative, _EPSILONS * _epsilon(of_first[0][error.name]))
        for error in _errors(truth, of_first, {})
    }
    return _errors(truth, of_second, tolerances), "outputs held against a in float64, tolerance twice the error of a"
