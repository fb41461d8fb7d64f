"""Several processes that train one student: who this one is, its share of the images, and one batch of all.

Started by ``torchrun``. Each process embeds its own images; the embeddings of all are gathered before the
losses are computed, so every process computes the loss of the whole batch. N processes with a batch of b
therefore take the steps of one process with a batch of N b, within rounding, also for losses that compare
images with each other, and through a BatchNorm that trains. What dropout draws stays per process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from reparam_kit import InputError, choose_device, first_line

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
        """Yield this process's part of each full batch of ``count * batch_size`` items, in order."""
        items = iter(order)
        while len(batch := list(islice(items, self.count * batch_size))) == self.count * batch_size:
            yield from batch[self.rank * batch_size : (self.rank + 1) * batch_size]

    def gather(self, rows: Tensor) -> Tensor:
        """Return the ``rows`` ``[N, ...]`` of all processes: ``[count * N, ...]``, through which gradients flow back.

        The loss of the gathered rows has to be the same in every process, and parameter gradients have to be
        averaged over the processes afterwards, see ``average_gradients``.
        """
        if self.count == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)  # type: ignore[no-untyped-call]
        return gathered

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of ``value`` over all processes, through which gradients flow back to each of them."""
        if self.count == 1:
            return value
        mean: Tensor = _Mean.apply(value, self.count)  # type: ignore[no-untyped-call]
        return mean

    def align(self, module: nn.Module) -> None:
        """Give all processes the first one's parameters and buffers."""
        if self.count > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.detach(), 0)

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give each parameter, float32 like all others, the mean of its gradients, 0 where a process has none.

        What no process used is left without one, as in one process: layers that are skipped at random, and what a loss
        of one's own holds and does not use. DistributedDataParallel stops at these, or warns where there are none.
        """
        if self.count == 1:
            return
        used = [p.grad is not None for p in parameters]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        everything = torch.cat([*(g.reshape(-1) for g in gradients), gradients[0].new_tensor(used)])
        dist.all_reduce(everything)
        *sums, users = torch.split(everything, [*(g.numel() for g in gradients), len(used)])
        for parameter, gradient, total, own, n in zip(parameters, gradients, sums, used, users, strict=True):
            if own or n > 0:  # asked where this process has none alone: it waits for the device
                parameter.grad = gradient.copy_((total / self.count).view(gradient.shape))

    def told(self, work: Callable[[], Value]) -> Value:
        """Return what ``work()`` of the first process gives, in all of them. Where it fails, all do, with one line."""
        if self.count == 1:
            return work()
        found, failed = _tried(work) if self.rank == 0 else (None, None)
        answer: list[Any] = [found, None if failed is None else first_line(failed)]
        dist.broadcast_object_list(answer)
        _raise(failed, answer[1:])
        value: Value = answer[0]
        return value

    def together(self, work: Callable[[], Value]) -> Value:
        """Return ``work()`` in every process, to the end of the last one. Where one fails, all do, with one line."""
        if self.count == 1:
            return work()
        value, failed = _tried(work)
        lines: list[str | None] = [None] * self.count
        dist.all_gather_object(lines, None if failed is None else first_line(failed))
        _raise(failed, lines)
        done: Value = value
        return done


def _tried(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Return what ``work()`` gives, and how it failed; an interruption ends this process at once."""
    try:
        return work(), None
    except Exception as error:
        return None, error


def _raise(own: Exception | None, lines: Iterable[str | None]) -> None:
    """Raise how this process failed, or else what another one says of how it did."""
    if own is not None:
        raise own
    for line in filter(None, lines):
        raise InputError(line)


ALONE = Processes()


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


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int) -> Tensor:
        ctx.count = count
        return _reduced(value, count)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # What the mean is worth is what all processes make of it.
        return _reduced(gradients[0], ctx.count), None


def _reduced(value: Tensor, count: int) -> Tensor:
    total = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / count


@contextmanager
def launched(device: str = "auto") -> Iterator[torch.device]:
    """Give the device of this process, with a process group open where ``torchrun`` started several.

    Args:
        device: as in ``rk.choose_device``; each of several processes has a CUDA device of its own.

    Raises:
        InputError: there is no such device.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    shared = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    place = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if shared and count > 1 else device)
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
