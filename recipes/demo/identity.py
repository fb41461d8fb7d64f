"""Training on identities with a margin softmax: how the demo's teacher and its deployed student came to be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.faces import input_preset

_SCALE, _MARGIN, _BATCH, _RATE = 24.0, 0.2, 64, 0.1


def train_on_identities(net: nn.Module, pictures: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """Train ``net`` in place to tell people apart, and return it in eval mode.

    CosFace (Wang et al., CVPR 2018, eq. 4): softmax over ``s * (cos - m)`` for the true person, ``s * cos`` for others.

    Args:
        net: pictures, as the input preset "insightface" gives them, to embeddings.
        pictures: uint8 ``[N, 3, H, W]`` RGB.
        labels: int64 ``[N]``, people 0 .. C-1.
        epochs: passes over the pictures.
    """
    preset = input_preset("insightface")
    net.eval()
    with torch.no_grad():
        size = net(preset(pictures[:1])).shape[1]
    people = int(labels.max()) + 1
    centres = nn.Parameter(0.05 * torch.randn(people, size))
    parameters = [*net.parameters(), centres]
    optimizer = torch.optim.SGD(parameters, _RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * (len(pictures) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps, pct_start=0.15)
    net.train()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(pictures)), _BATCH)[: len(pictures) // _BATCH]:
            mirrored = torch.rand(len(batch), 1, 1, 1) < 0.5
            inputs = preset(torch.where(mirrored, pictures[batch].flip(-1), pictures[batch]))
            embeddings = net(inputs.contiguous(memory_format=torch.channels_last))
            cosines = F.linear(F.normalize(embeddings), F.normalize(centres))
            margins = _MARGIN * F.one_hot(labels[batch], people)
            loss = F.cross_entropy(_SCALE * (cosines - margins), labels[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return net.eval()
