"""Images changed, within a bound that no eye sees, to where the student is furthest from its teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recipes.tsmr.distributed import Processes
from recipes.tsmr.parts import Attack


def perturb(
    images: Tensor,
    error: Callable[[Tensor], Tensor],
    choices: Attack,
    processes: Processes,
) -> Tensor:
    """Return ``images`` moved by at most ``choices.radius`` a pixel to where ``error`` is large: float32, in 0..255.

    One step from a random start is FGSM as in Wong et al., Fast is better than free, ICLR 2020; several are
    PGD (Madry et al., ICLR 2018).

    Args:
        images: ``[N, C, H, W]`` in 0..255, uint8 or floating.
        error: images to a number, differentiable.
        choices: radius and steps.
        processes: those that share the batch: the random start of each image is that of one batch of all.
    """
    clean = images.float()
    radius = choices.radius
    stride = radius * (1.25 if choices.steps == 1 else 2.5 / choices.steps)
    noise = torch.rand((processes.count * len(clean), *clean.shape[1:]), device=clean.device)
    noise = noise[processes.rank * len(clean) :][: len(clean)]
    moved = (clean + radius * (2 * noise - 1)).clamp(0, 255)
    for _ in range(choices.steps):
        moved.requires_grad_(True)
        (gradient,) = torch.autograd.grad(error(moved), moved)
        step = moved.detach() + stride * gradient.sign()
        moved = step.clamp(clean - radius, clean + radius).clamp(0, 255)
    return moved.detach()
