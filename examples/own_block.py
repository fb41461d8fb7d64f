"""A block of your own: as text, and in Python. A factor of your own is in `own_factor.py`.

Run it with `python examples/own_block.py`; it takes a second.
"""

from __future__ import annotations

import torch
from torch import nn

import reparam_kit as rk
from reparam_kit.algebra.factors import Avg, Conv

BLOCKS = {
    "text": "conv(k) + 2 * conv(1) >> avg(k)",
    "python": Conv("k") + (Conv(1) >> Conv("k")) + 2 * (Conv(1) >> Avg("k")),  # >> binds looser here
    "by a preset's name": "dbb",
}


def main() -> None:
    """Expand with each block, move what it trains, fold, and compare in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 5, groups=2)).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    for name, block in BLOCKS.items():
        student = rk.expand(net, block, norm="batch")  # a BatchNorm behind every factor; each branch runs
        assert torch.equal(student(x), net(x)), "every branch starts as the zero operator"
        for parameter in student.parameters():  # as training does
            parameter.data += 0.1 * torch.randn_like(parameter)
        added = sum(p.numel() for p in student.parameters()) - sum(p.numel() for p in net.parameters())
        expected = student.eval()(x)
        folded = rk.fold(student)
        error = ((folded(x) - expected).abs().max() / expected.abs().max()).item()
        print(f"{name}: {block}: {added} parameters more, fold within {error:.1e}")
        assert error < 1e-12
        assert [p.shape for p in folded.parameters()] == [p.shape for p in net.parameters()]


if __name__ == "__main__":
    main()
