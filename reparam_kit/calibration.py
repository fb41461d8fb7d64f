"""Start values from the user's data: the outputs of each branch measured against those of the deployed convolution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from reparam_kit.algebra import NORMS, Expanded, by_channel, to_kernel, to_weight
from reparam_kit.errors import InputError, ReparamError, first_line
from reparam_kit.inputs import Inputs, arguments
from reparam_kit.modes import evaluating


def calibrate(student: nn.Module, batches: Iterable[Inputs]) -> None:
    """Run ``batches`` through a freshly expanded model and set its branches by what they give, in place.

    ``norm="scale"``: each channel of a branch is brought to the standard deviation that the deployed convolution's
    output has there. ``norm="batch"``: the branches' running statistics become those of the data. The function of the
    model in eval mode stays as it is, since its branches are still zero.

    Raises InputError where ``batches`` is empty, or the model does not run on them.
    """
    expanded = [module for module in student.modules() if isinstance(module, Expanded)]
    meters = [_Meter(module) for module in expanded if NORMS[module.norm].measured]
    branches = [branch for module in expanded for branch in module.branches]
    norms = [norm for branch in branches for norm in branch.modules() if isinstance(norm, _BatchNorm)]
    with _measuring(student, norms), torch.no_grad():
        count = run_on(student, batches)
    if count == 0:
        raise InputError("calibration holds no batch; give at least one")
    for meter in meters:
        meter.apply()


def run_on(model: nn.Module, batches: Iterable[Inputs]) -> int:
    """Run ``model`` on each batch of calibration data, and count them. Raises InputError where it does not run."""
    count = 0
    for batch in batches:
        try:
            model(*arguments(batch))
        except ReparamError:
            raise
        except Exception as error:  # the user's forward may raise anything
            raise InputError(
                f"the model does not run on the calibration data: {first_line(error)}"
            ) from error
        count += 1
    return count


@contextmanager
def _measuring(student: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """Eval mode for all but ``norms``, which average the statistics of all batches evenly."""
    momenta = [norm.momentum for norm in norms]
    with evaluating(student):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum


class _Meter:
    """Sums up the outputs of one expanded convolution, and of its branches on the same input."""

    def __init__(self, module: Expanded) -> None:
        self.module = module
        self.deployed = Moments()
        self.branches = [Moments() for _ in module.branches]
        self.handle = module.register_forward_hook(self.see, with_kwargs=True)

    def see(self, module: Expanded, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        base = module.base
        self.deployed.add(by_channel(base, output))
        for branch, own in zip(module.branches, self.branches, strict=True):
            kernel = to_kernel(base, torch.zeros_like(base.weight)).plus([branch.product()])
            out = functional_call(base, {"weight": to_weight(base, kernel)}, args, kwargs)
            own.add(by_channel(base, out))

    def apply(self) -> None:
        self.handle.remove()
        for branch, own in zip(self.module.branches, self.branches, strict=True):
            branch.rescale((self.deployed.variance / own.variance).sqrt())


class Moments:
    """Mean and variance of each row of values ``[C, M]``, in float64, merged batch by batch.

    T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979, equation 2.1: a channel that is constant has variance 0, however large it is.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)

    @property
    def variance(self) -> Tensor:
        return self.squares / self.count

    def add(self, values: Tensor) -> None:
        values = values.double()
        count = values.shape[1]
        if not count:
            raise InputError("a batch of the calibration data is empty; give batches of one input at least")
        mean = values.mean(1)
        total = self.count + count
        delta = mean - self.mean
        own = (values - mean[:, None]).square().sum(1)
        self.squares = self.squares + own + delta.square() * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total
