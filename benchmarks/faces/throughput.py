"""What a training step costs: the trainer's own step, and a bare forward and backward of the same student, in turns."""

from __future__ import annotations

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
from benchmarks.faces.runs import Student, data_of
from recipes.faces import input_preset
from recipes.tsmr import Batch, Stage, TSMRConfig
from recipes.tsmr.beginning import start_objective
from recipes.tsmr.distributed import Processes
from recipes.tsmr.expansion import expanded
from recipes.tsmr.targets.examples import Examples
from recipes.tsmr.targets.showing import Showing, Shown
from recipes.tsmr.targets.targets import StoredTargets
from recipes.tsmr.targets.views import Views
from recipes.tsmr.training.memory import kept_memory
from recipes.tsmr.training.trainer import Trainer

_TEACHER = 512  # numbers of the teacher's embedding
_TAKEN = 1024  # images of which the teacher's spread is told
_BLOCKS = (None, "dbb")

Work = Callable[[], None]


def measure(
    name: str, student: Student, faces: Path, batch_size: int, rounds: int, threads: int
) -> Iterator[dict[str, Any]]:
    """Images a second, medians over ``rounds``, with the losses and BatchNorms that ``student`` is trained with; the
    bare step has these BatchNorms, and no branches. Decoding is left out of both.

    With one thread it is processor time, which other work disturbs least; with several, time.
    """
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    bare, *steps = arms(student, faces, batch_size)
    with kept_memory():
        taken = [[_seconds(arm, clock) for arm in (bare, *steps)] for _ in range(rounds)]
    for at, block in enumerate(_BLOCKS, start=1):
        ratios = sorted(times[0] / times[at] for times in taken)
        yield {
            "student": name,
            "batch": batch_size,
            "restored": student.restore_bn,
            "block": block,
            "threads": threads,
            "bare": batch_size / median(times[0] for times in taken),
            "step": batch_size / median(times[at] for times in taken),
            "ratio": median(ratios),
            "spread": [ratios[0], ratios[-1]],
        }


def arms(student: Student, faces: Path, batch_size: int) -> list[Work]:
    """Return a bare step, and a whole one with each of ``_BLOCKS``; the memory of earlier embeddings is full."""
    model = rk.load(student.file)
    views = Views(data_of(student, faces, None))
    size = model(input_preset(student.preset)(views.first(1))).shape[1]
    taught, old = (StoredTargets([_table(len(views), many)], "concat") for many in (_TEACHER, size))
    examples = Examples(Showing(views), taught, old=old)
    batch = next(examples.showing.epoch(1, batch_size, workers=0))
    config = TSMRConfig(
        student_input=student.preset,
        restore_bn=student.restore_bn,
        stages=(Stage(1, losses=student.losses),),
        batch_size=batch_size,
    )
    plain = expanded(model, views, replace(config, block=None)).train()
    inputs = input_preset(student.preset)(batch[0].images).contiguous(memory_format=torch.channels_last)

    def bare() -> None:
        plain.zero_grad()
        plain(inputs).square().mean().backward()

    return [bare, *(_step(model, examples, replace(config, block=block), batch) for block in _BLOCKS)]


def _step(model: nn.Module, examples: Examples, config: TSMRConfig, batch: tuple[Shown, ...]) -> Work:
    objective = start_objective(_sample(examples), examples, config, torch.device("cpu"))
    trainer = Trainer(expanded(model, examples.views, config), objective, examples, config, Processes())
    stage = trainer.begin(0)

    def step() -> None:
        stage.take_step(iter([batch]), 1e-6, 0.5)

    return step


def _sample(examples: Examples) -> Batch:
    assert examples.old is not None
    first = np.arange(_TAKEN)
    return Batch(examples.old.originals(first), teacher=examples.targets.originals(first))


def _table(images: int, size: int) -> npt.NDArray[np.float16]:
    table = np.random.default_rng(0).normal(size=(images, 1, size))
    return (table / np.linalg.norm(table, axis=2, keepdims=True)).astype(np.float16)


def _seconds(work: Work, clock: Callable[[], float]) -> float:
    """Of the second of two runs: the first one finds caches and memory as the other arm left them."""
    work()
    start = clock()
    work()
    return clock() - start
