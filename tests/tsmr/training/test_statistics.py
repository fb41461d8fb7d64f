"""A BatchNorm over several processes is one over the batch of all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.tsmr.distributed import Processes
from recipes.tsmr.training.statistics import SharedStatistics


class Alone(Processes):
    """One of one, which is asked for means all the same."""

    def mean(self, value: Tensor) -> Tensor:
        return value


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(5), (4, 5, 3, 2)),
        (nn.BatchNorm2d(5, affine=False, momentum=None), (4, 5, 3, 2)),
        (nn.BatchNorm2d(5, track_running_stats=False), (4, 5, 3, 2)),
        (nn.BatchNorm1d(6, eps=0.1, momentum=0.5), (8, 6)),
        (nn.BatchNorm2d(5).eval(), (4, 5, 3, 2)),
        (nn.Conv2d(5, 2, 1), (4, 5, 3, 2)),
    ],
)
def test_on_one_process_it_is_the_layer_itself(
    layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    found = []
    for shared in (False, True):
        layer.load_state_dict({name: torch.ones_like(part) for name, part in layer.state_dict().items()})
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            if shared:
                with SharedStatistics(Alone()):
                    out = layer(x)
            else:
                out = layer(x)
        layer.zero_grad()
        F.silu(out.float()).sum().backward()
        grads = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        found.append((out.detach(), x.grad, *grads, *(b.clone().float() for b in layer.buffers())))
    assert len(found[0]) == len(found[1])
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
