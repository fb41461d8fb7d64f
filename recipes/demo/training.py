"""Training on identities: how the demo's teacher and its deployed student came to be, before the recipe begins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from recipes.faces import input_preset

_BATCH = 64
_RATE = 0.1
_WARMUP = 0.15
_SCALE = 24.0
_MARGIN = 0.2


def train_identities(net: nn.Module, pictures: Tensor, people: Tensor, epochs: int, name: str) -> None:
    """Train ``net`` to tell people apart, in place, and leave it in eval mode.

    The loss is CosFace (Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018, eq. 4)
    with SGD and a one-cycle rate; half of the pictures are mirrored.

    Args:
        net: pictures float32 ``(n, 3, h, w)`` in -1..1 to embeddings ``(n, size)``.
        pictures: uint8 RGB ``(n, 3, h, w)``, at least one batch of 64.
        people: int64 ``(n,)``, from 0.
        epochs: passes over the pictures; those left over at the end of a pass are not used in it.
        name: what the progress bar calls it.
    """
    preset = input_preset("insightface")
    net.eval()
    with torch.no_grad():
        size = net(preset(pictures[:1])).shape[1]
    classes = int(people.max()) + 1
    centres = nn.Parameter(torch.randn(classes, size))
    optimizer = torch.optim.SGD(
        [*net.parameters(), centres], _RATE, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    in_epoch = len(pictures) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=epochs * in_epoch, pct_start=_WARMUP
    )
    order = torch.cat([torch.randperm(len(pictures))[: in_epoch * _BATCH] for _ in range(epochs)])
    net.train()
    console = Console(stderr=True)
    batches = track(
        order.split(_BATCH), name, console=console, transient=True, disable=not console.is_terminal
    )
    for rows in batches:
        mirrored = torch.rand(_BATCH, 1, 1, 1) < 0.5
        batch = torch.where(mirrored, pictures[rows].flip(3), pictures[rows])
        # Channels last is about twice as fast here on a CPU.
        embeddings = net(preset(batch).contiguous(memory_format=torch.channels_last))
        cosine = F.linear(F.normalize(embeddings), F.normalize(centres))
        margin = _MARGIN * F.one_hot(people[rows], classes)
        loss = F.cross_entropy(_SCALE * (cosine - margin), people[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    net.eval()
