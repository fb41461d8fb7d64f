"""What a training step costs: the trainer's own step, and a bare forward and backward of the same student, in turns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

import reparam_kit as rk
from recipes.faces import FaceRecords, input_preset
from recipes.tsmr import TSMRConfig
from recipes.tsmr.beginning import start_objective
from recipes.tsmr.distributed import Processes
from recipes.tsmr.expansion import expanded
from recipes.tsmr.targets.examples import Examples
from recipes.tsmr.targets.showing import Showing
from recipes.tsmr.targets.targets import StoredTargets
from recipes.tsmr.targets.views import Views
from recipes.tsmr.training.stage import StageRun
from recipes.tsmr.training.trainer import Trainer

_TEACHER = 640  # numbers of the two teachers' embeddings together


def measure(
    name: str, student: str, config: TSMRConfig, records: Path, batch_size: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Images a second, medians over ``rounds``, in each stage of ``config``; decoding is left out of both.

    With one thread, and with one for each core. Once for the student as deployed and once with its BatchNorms
    restored, which both then have: what they cost is the student's, not the step's.
    """
    model = rk.load(student)
    views = Views(torch.utils.data.Subset(FaceRecords(records), range(batch_size)))
    table = np.random.default_rng(0).normal(size=(batch_size, 2, _TEACHER)).astype(np.float16)
    table /= np.linalg.norm(table.astype(np.float32), axis=2, keepdims=True).astype(np.float16)
    examples = Examples(Showing(views, flip=True), StoredTargets([table], "concat"))
    batch = next(examples.showing.epoch(1, batch_size, workers=0))
    inputs = input_preset(config.student_input)(batch[0].images).contiguous(memory_format=torch.channels_last)
    for restored in (False, True):
        config = replace(config, restore_bn=restored)
        plain = expanded(model, views, replace(config, block=None)).train()

        def bare(plain: nn.Module = plain) -> None:
            plain.zero_grad()
            plain(inputs).square().mean().backward()

        branched = expanded(model, views, config)
        objective = start_objective(model, examples, config)
        trainer = Trainer(branched, objective, examples, config, Processes())

        for number in range(len(config.plan.stages)):
            stage = trainer.begin(number)

            def step(stage: StageRun = stage) -> None:
                stage.take_step(iter([batch]), 1e-6, 0.5)

            for threads in sorted({1, os.cpu_count() or 1}):
                torch.set_num_threads(threads)
                pairs = [(_seconds(bare), _seconds(step)) for _ in range(rounds)]
                bare_time, step_time = (median(times) for times in zip(*pairs, strict=True))
                yield {
                    "student": name,
                    "restored": restored,
                    "threads": threads,
                    "stage": number + 1,
                    "bare": batch_size / bare_time,
                    "step": batch_size / step_time,
                }


def _seconds(work: Callable[[], None]) -> float:
    """Of the second of two runs: the first one finds caches and memory as the other arm left them."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
