"""Running two models on the same inputs, and how far apart that leaves them.

Exactness is a number here, relative to the scale of the output. Two modules are both held against the float64 run of
the first: the second may be no further from it than twice the distance at which the first, in its own precision,
already is. Where a file takes part (see :mod:`.files`) there is no such run, and a fixed tolerance stands in for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reparam_kit.errors import InputError, first_line
from reparam_kit.substitution import duplicate
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
    """Return the errors of ``b`` on ``inputs``, and a note on what they are held against.

    Where an output has few numbers, runs on inputs that differ from the given ones by about 0.1 % give it more.
    """
    run_a, run_b = runner(a), runner(b)
    fewest = min((output.numel() for output in run_a(inputs).values() if output.numel()), default=_ENOUGH)
    generator = torch.Generator().manual_seed(0)
    runs = [inputs, *(_near(inputs, generator) for _ in range(math.ceil(_ENOUGH / fewest) - 1))]
    of_a, of_b = [run_a(run) for run in runs], [run_b(run) for run in runs]
    try:
        run_truth = runner(a, torch.float64)
        truth = [run_truth([x.double() if x.is_floating_point() else x for x in run]) for run in runs]
    except InputError:
        # Its forward makes tensors of a dtype of its own, which do not go with float64 weights.
        return errors_of(of_a, of_b, {}), "a does not run in float64, so b is held against a as it is"
    tolerances = {
        error.name: 2 * max(error.relative, _EPSILONS * _epsilon(of_a[0][error.name].dtype))
        for error in errors_of(truth, of_a, {})
    }
    return errors_of(truth, of_b, tolerances), "b is held against a in float64, and to twice the error of a"


def runner(module: nn.Module, dtype: torch.dtype | None = None) -> Runner:
    """Runs a copy, so that mode, dtype and device of the user's module stay as they are.

    What it gives raises InputError where the module does not take the inputs.
    """
    module = duplicate(module).to(device="cpu", dtype=dtype).eval()

    def run(inputs: Sequence[Tensor]) -> Outputs:
        try:
            with torch.no_grad():
                return dict(_named(module(*(x.clone() for x in inputs)), "output"))
        except Exception as error:  # a forward may raise anything
            shapes = [list(x.shape) for x in inputs]
            raise InputError(
                f"{type(module).__name__} does not run on inputs of shapes {shapes}: {first_line(error)}"
            ) from error

    return run


def _named(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in what a module returned."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _named(item, f"{name}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _named(item, f"{name}[{position}]")


def _near(inputs: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    return [
        x * (1 + 1e-3 * torch.randn(x.shape, generator=generator, dtype=x.dtype))
        if x.is_floating_point()
        else x
        for x in inputs
    ]


def errors_of(
    reference: Sequence[Outputs],
    other: Sequence[Outputs],
    tolerances: Mapping[str, float],
    inside: Iterable[torch.dtype] = (),
) -> tuple[OutputError, ...]:
    """Return one error for each output, over all runs. Outputs go by position, since two files may name them
    differently.

    Where there is no tolerance it is that of the outputs' types and of those that one of the two has ``inside``.
    """
    columns = (list(zip(*(run.values() for run in runs), strict=True)) for runs in (reference, other))
    names = max(reference[0], other[0], key=len)
    errors = []
    for name, (expected, found) in zip(names, zip_longest(*columns, fillvalue=()), strict=True):
        types = {*inside, *(output.dtype for output in (*expected, *found))}
        tolerance = max([_FILE_TOLERANCE, *(_EPSILONS * _epsilon(dtype) for dtype in types)])
        errors.append(_error(name, expected, found, tolerances.get(name, tolerance)))
    return tuple(errors)


def _error(name: str, expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> OutputError:
    if [x.shape for x in expected] != [x.shape for x in found]:
        return OutputError(name, math.inf, math.inf, 0.0, tolerance)
    if not sum(x.numel() for x in expected):
        return OutputError(name, 0.0, 0.0, 1.0, tolerance)
    cosines = []
    for x, y in zip(expected, found, strict=True):
        rows = [(z.flatten(1) if z.dim() > 1 else z.reshape(1, z.numel())).double() for z in (x, y)]
        cosines.append(torch.where(_same(*rows).all(1), 1.0, F.cosine_similarity(rows[0], rows[1])))
    x, y = (torch.cat([z.flatten().double() for z in runs]) for runs in (expected, found))
    max_abs = float(torch.where(_same(x, y), 0, x - y).abs().max())
    scale = float(torch.where(x.isfinite(), x, 0).abs().max())
    return OutputError(name, max_abs, max_abs / (scale or 1.0), float(torch.cat(cosines).min()), tolerance)


def _same(x: Tensor, y: Tensor) -> Tensor:
    """Return where two tensors hold the same number, or both none."""
    return (x == y) | (x.isnan() & y.isnan())


def _epsilon(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
