"""A factor of your own: one class, found by its name. On the command line: `expand --import own_factor.py`.

Run it with `python examples/own_factor.py`; it takes a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import reparam_kit as rk
from reparam_kit.algebra.factors import Plane


@dataclass(frozen=True)
class Blur(Plane, name="blur"):
    """A binomial filter, not trained."""

    weights = [[1 / 16, 1 / 8, 1 / 16], [1 / 8, 1 / 4, 1 / 8], [1 / 16, 1 / 8, 1 / 16]]  # noqa: RUF012


def main() -> None:
    """Expand with it, move what it trains, fold, and compare in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 5)).double()
    student = rk.expand(net, "conv(k) + conv(1) >> blur").eval()
    for parameter in student.parameters():  # as training does
        parameter.data += 0.1 * torch.randn_like(parameter)
    x: Tensor = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected, folded = student(x), rk.fold(student)
    error = ((folded(x) - expected).abs().max() / expected.abs().max()).item()
    print(f"{student}\nfold within {error:.1e}")
    assert error < 1e-12


if __name__ == "__main__":
    main()
