"""The training loop of one stage: AdamW with warm-up and a cosine schedule, one epoch at a time.

Everything random in an epoch is seeded by its number, and the learning rate is a function of the step. So what a run can go on
from is the weights and the optimizer's moments after an epoch; there is no state of generators or schedulers to carry along.

The student trains in train mode, BatchNorm layers included, as is usual in fine-tuning: they normalise by the batch and their
running statistics move to those of the training images. Deployed ONNX files seldom have any left.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recipes.faces import input_preset
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.progress import Progress
from recipes.tsmr.views import Views, epoch_order
from reparam_kit import ReparamError

_REPORT_EVERY = 16  # steps; reading the loss waits for the device


class Trainer:
    """Trains ``student`` and ``stage`` together, in place.

    Args:
        student: the net; on the device that is trained on.
        stage: module of the loss terms (see ``recipes.tsmr.losses.Distillation``), on the same device.
        views: the training images.
        targets: the teacher's embeddings, float16 ``[N, V, D]``.
        config: the choices of the run.
    """

    def __init__(
        self, student: nn.Module, stage: nn.Module, views: Views, targets: npt.NDArray[np.float16], config: TSMRConfig
    ) -> None:
        self.student = student
        self.stage = stage
        self.views = views
        self.targets = targets
        self.config = config
        self.parameters = [p for module in (student, stage) for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(decay_groups(self.parameters, config.weight_decay), fused=True)

    def run_epoch(self, epoch: int, progress: Progress) -> tuple[dict[str, float], float]:
        """Train one epoch, the first being 1. Returns the mean of each loss term, and images trained on a second.

        Raises:
            ReparamError: the loss or its gradient is no longer finite.
        """
        config = self.config
        seed = config.seed * 1_000_003 + epoch
        torch.manual_seed(seed)
        self.student.train()
        device = self.parameters[0].device
        preset = input_preset(config.student_input)
        order = epoch_order(len(self.views), config.flip, seed)
        steps = len(order) // config.batch_size
        sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        with progress.task(f"epoch {epoch}/{config.epochs}", steps * config.batch_size) as task:
            batches = self.views.batches(order, config.batch_size, config.workers, drop_last=True)
            for step, (images, index, mirrored) in enumerate(batches, start=1):
                rate = config.lr * schedule(steps * (epoch - 1) + step, steps * config.epochs, config.warmup)
                target = torch.from_numpy(self.targets[index.numpy(), mirrored.long().numpy()].astype(np.float32))
                inputs = preset(images.to(device)).contiguous(memory_format=torch.channels_last)
                terms = self.stage(self.student(inputs), target.to(device))
                norm = self._step(sum(terms.values()), rate)
                for name, term in terms.items():
                    sums[name] += term.detach()
                if step % _REPORT_EVERY == 0 or step == steps:
                    if not torch.isfinite(norm):
                        raise ReparamError(
                            f"the gradient is no longer finite in epoch {epoch} by step {step} of {steps}: "
                            f"lower lr={config.lr:g}, or check student_input={config.student_input!r}"
                        )
                    note = ", ".join(f"{name} {float(total) / step:.4f}" for name, total in sums.items())
                    task.advance(..., note=f"{note}, lr {rate:.1e}")
        return {name: float(total) / steps for name, total in sums.items()}, task.rate
