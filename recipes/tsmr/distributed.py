"""Several processes that train one student: who this one is, its share of the images, and one batch of all.

Started by ``torchrun``. Each process embeds its own images; the embeddings of all are gathered before the
losses are computed, so every process computes the loss of the whole batch. N processes with a batch of b
therefore take the steps of one process with a batch of N b, within rounding, also for losses that compare
images with each other. Two things stay per process: BatchNorm's batch statistics (convert the model with
``torch.nn.SyncBatchNorm`` where that matters) and what dropout draws.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from reparam_kit import InputError, first_line

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among ``count``; ``rank`` 0 writes the files."""

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Those of the process group that is open; one process where there is none."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, order: Iterable[Item], batch_size: int) -> Iterator[Item]:
        """This process's part of each full batch of ``count * batch_size`` items, in order."""
        items = iter(order)
        while len(batch := list(islice(items, self.count * batch_size))) == self.count * batch_size:
            yield from batch[self.rank * batch_size : (self.rank + 1) * batch_size]

    def gather(self, rows: Tensor) -> Tensor:
        """The ``rows`` ``[N, ...]`` of all processes: ``[count * N, ...]``, through which gradients flow back.

        The loss of the gathered rows has to be the same in every process, and parameter gradients have to be
        averaged over the processes afterwards, as DistributedDataParallel does.
        """
        if self.count == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)  # type: ignore[no-untyped-call]
        return gathered

    def first(self, work: Callable[[], Value]) -> Value:
        """``work()`` of the first process, then of the others, which find what it has left on disk."""
        if self.count == 1:
            return work()
        if self.rank != 0:
            dist.barrier()
        try:
            return work()
        finally:
            if self.rank == 0:
                dist.barrier()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, processes: Processes) -> Tensor:
        ctx.processes, ctx.rows = processes, len(rows)
        parts = [torch.empty_like(rows) for _ in range(processes.count)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # Every process has the gradient of the same loss. The average over processes divides this one's part
        # by their number, though no other process adds to it.
        start = ctx.processes.rank * ctx.rows
        return ctx.processes.count * gradients[0][start : start + ctx.rows], None


@contextmanager
def launched(device: str) -> Iterator[torch.device]:
    """The device of this process, with a process group open where ``torchrun`` started several.

    Raises:
        InputError: there is no such device.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" and count > 1 else device
    try:
        held = torch.zeros(1, device=name)
        held.cpu()  # "meta" holds nothing
        place = held.device
    except (RuntimeError, AssertionError, ImportError) as error:  # AssertionError: a torch built without CUDA
        raise InputError(f"--device {name}: {first_line(error).partition('. ')[0]}") from error
    if count == 1:
        yield place
        return
    if place.type == "cuda":
        torch.cuda.set_device(place)
    # The others wait while the first computes the teacher's embeddings, which can take hours.
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=timedelta(days=1))
    try:
        yield place
    finally:
        dist.destroy_process_group()
