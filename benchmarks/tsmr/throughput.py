"""What a training step costs: the trainer's own step, and a bare forward and backward of the same student, in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import reparam_kit as rk
from recipes.faces import FaceRecords, input_preset
from recipes.tsmr import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.examples import Examples, Targets
from recipes.tsmr.prepare import expanded, start_objective
from recipes.tsmr.trainer import Trainer
from recipes.tsmr.views import Views, epoch_order

_TEACHER = 640  # numbers of the two teachers' embeddings together


def measure(
    name: str, student: str, config: TSMRConfig, records: Path, batch_size: int, rounds: int
) -> list[dict[str, Any]]:
    """Images a second, medians over ``rounds``, in each stage of ``config``; decoding is left out of both."""
    model = rk.load(student)
    views = Views(torch.utils.data.Subset(FaceRecords(records), range(batch_size)))
    table = np.random.default_rng(0).normal(size=(batch_size, 2, _TEACHER)).astype(np.float16)
    table /= np.linalg.norm(table.astype(np.float32), axis=2, keepdims=True).astype(np.float16)
    examples = Examples(views, Targets([table], "concat"))
    batch = next(iter(views.batches(epoch_order(batch_size, True, 0), batch_size, 0)))
    inputs = input_preset(config.student_input)(batch[0]).contiguous(memory_format=torch.channels_last)
    model.train()

    def bare() -> None:
        model.zero_grad()
        model(inputs).square().mean().backward()

    lines = []
    for number in range(len(config.stages)):
        trainer = Trainer(
            expanded(model, views, config),
            start_objective(model, examples, config),
            examples,
            config,
            Processes(),
        )
        trainer.begin(number)

        def step(trainer: Trainer = trainer) -> None:
            trainer.take_step(iter([batch]), 1e-6, 0.5)

        bare(), step()
        pairs = [(_seconds(bare), _seconds(step)) for _ in range(rounds)]
        bare_time, step_time = (median(times) for times in zip(*pairs, strict=True))
        lines.append(
            {
                "student": name,
                "stage": number + 1,
                "bare": batch_size / bare_time,
                "step": batch_size / step_time,
            }
        )
    return lines


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
