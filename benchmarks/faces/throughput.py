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
import numpy.typing as npt
import torch
from torch import nn

import reparam_kit as rk
from benchmarks.faces.runs import Student
from recipes.faces import FaceRecords, input_preset
from recipes.tsmr import Stage, TSMRConfig
from recipes.tsmr.beginning import answers, start_objective
from recipes.tsmr.distributed import Processes
from recipes.tsmr.expansion import expanded
from recipes.tsmr.objective.earlier import LENGTH
from recipes.tsmr.search.trials import KEEP, LEARN
from recipes.tsmr.targets.examples import Examples
from recipes.tsmr.targets.showing import Showing
from recipes.tsmr.targets.targets import StoredTargets
from recipes.tsmr.targets.views import Views
from recipes.tsmr.training.stage import StageRun
from recipes.tsmr.training.trainer import Trainer

_TEACHER = 512  # numbers of the teacher's embedding


def measure(
    name: str, student: Student, records: Path, batch_size: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Images a second, medians over ``rounds``, with the losses of the defaults; decoding is left out of both.

    With one thread, and with one for each core. Once for the student as deployed and once with its BatchNorms
    restored, which both then have: what they cost is the student's, not the step's.
    """
    model = rk.load(student.file)
    views = Views(torch.utils.data.Subset(FaceRecords(records), range(batch_size)))
    size = model(input_preset(student.preset)(views.first(1))).shape[1]
    taught, old = (StoredTargets([_table(batch_size, many)], "concat") for many in (_TEACHER, size))
    examples = Examples(Showing(views), taught, old=old)
    (batch,) = examples.showing.epoch(1, batch_size, workers=0)
    inputs = input_preset(student.preset)(batch[0].images).contiguous(memory_format=torch.channels_last)
    for restored in (False, True):
        stages = (Stage(1, losses=KEEP if not restored else LEARN),)
        config = TSMRConfig(
            student_input=student.preset, restore_bn=restored, stages=stages, batch_size=batch_size
        )
        plain = expanded(model, views, replace(config, block=None)).train()

        def bare(plain: nn.Module = plain) -> None:
            plain.zero_grad()
            plain(inputs).square().mean().backward()

        objective = start_objective(answers(model, examples, config), examples, config, torch.device("cpu"))
        stage = Trainer(expanded(model, views, config), objective, examples, config, Processes()).begin(0)

        def step(stage: StageRun = stage) -> None:
            stage.take_step(iter([batch]), 1e-6, 0.5)

        for _ in range(LENGTH // batch_size):
            step()  # until the memory of earlier embeddings is full
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            pairs = [(_seconds(bare), _seconds(step)) for _ in range(rounds)]
            bare_time, step_time = (median(times) for times in zip(*pairs, strict=True))
            yield {
                "student": name,
                "restored": restored,
                "threads": threads,
                "bare": batch_size / bare_time,
                "step": batch_size / step_time,
            }


def _table(images: int, size: int) -> npt.NDArray[np.float16]:
    table = np.random.default_rng(0).normal(size=(images, 1, size))
    return (table / np.linalg.norm(table, axis=2, keepdims=True)).astype(np.float16)


def _seconds(work: Callable[[], None]) -> float:
    """Of the second of two runs: the first one finds caches and memory as the other arm left them."""
    work()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
