from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recipes.tsmr import Attack
from recipes.tsmr.distributed import Processes
from recipes.tsmr.objective.attack import perturb


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("radius", [1.0, 8.0])
def test_images_move_within_the_bound_to_where_the_error_is_larger(steps: int, radius: float) -> None:
    images = torch.randint(0, 256, (4, 3, 5, 5), dtype=torch.uint8)
    direction = torch.randn(3, 5, 5)

    def error(shown: Tensor) -> Tensor:
        return (shown * direction).sum()

    moved = perturb(images, error, Attack(radius, steps), Processes())
    assert moved.dtype == torch.float32
    assert not moved.requires_grad
    assert (moved - images.float()).abs().max() <= radius + 1e-3
    assert moved.min() >= 0
    assert moved.max() <= 255
    # The error is linear: the best is the corner of the bound that its gradient points to.
    best = (images.float() + radius * direction.sign()).clamp(0, 255)
    gained = error(moved) - error(images.float())
    assert gained > 0.5 * (error(best) - error(images.float()))


def test_parameters_get_no_gradient() -> None:
    weight = torch.ones(3, 4, 4, requires_grad=True)
    perturb(torch.zeros(1, 3, 4, 4), lambda shown: (shown * weight).sum(), Attack(), Processes())
    assert weight.grad is None


def test_processes_start_where_one_with_all_their_images_does() -> None:
    images, few = torch.full((4, 3, 5, 5), 128.0), Attack(8.0, 1)
    moved = []
    for rank, count in ((0, 1), (0, 2), (1, 2)):
        torch.manual_seed(0)
        rows = images[: len(images) // count]
        moved.append(perturb(rows, lambda shown: shown.sum(), few, Processes(rank, count)))
    assert torch.equal(moved[0], torch.cat(moved[1:]))
