"""The composition of all kernels of a model as two CUDA graphs.

A GPU does in a few microseconds what composes a kernel, and each operator takes longer than that to be launched: of a
small net's training step more than half. What composes the kernels reads parameters alone, where they lie, so it is
recorded once and replayed: two launches a step. What a replay gives lies in memory that the next one writes to; it is
copied out in one piece, so that kernels and gradients are as independent of each other as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import torch
from torch import Tensor

from reparam_kit.algebra.composition import Parts, compose, require_unchanged, versions_of

Groups: TypeAlias = Sequence[Sequence[Parts]]
"""Layers, those side by side that are composed together."""

_PIECE = 64  # numbers to whose multiples the places in a piece of memory are rounded up: kernels want to be aligned


class Recorder:
    """Records work on a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self._here, self._aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def fits(self) -> bool:
        """Return whether what is done now is done after what was done where this was made."""
        return bool(self._here == torch.cuda.current_stream(self._here.device))

    def prepare(self, work: Callable[[], object]) -> None:
        """Do ``work``: the first run of an operator may do what cannot be recorded."""
        self._aside.wait_stream(self._here)
        with torch.cuda.stream(self._aside):
            work()
        self._here.wait_stream(self._aside)

    def record(self, work: Callable[[], object]) -> Callable[[], None]:
        """Return what does the same work again, in the same memory."""
        graph = torch.cuda.CUDAGraph()
        # Other threads go on as they do: one of them may copy images to the device.
        with torch.cuda.graph(graph, self._pool, self._aside, capture_error_mode="thread_local"):
            work()
        return graph.replay


class Replay:
    """What composes the kernels of ``groups``, recorded; replayed, it reads what the tensors hold then.

    Raises:
        RuntimeError: CUDA cannot record it.
    """

    def __init__(self, groups: Groups) -> None:
        tensors = {id(tensor): tensor for group in groups for parts in group for tensor in parts.tensors}
        self.groups, self.tensors = groups, tuple(tensors.values())
        self.recorder = Recorder(self.tensors[0].device)
        own = {key: tensor.detach().requires_grad_(tensor.requires_grad) for key, tensor in tensors.items()}
        trained = [tensor for tensor in own.values() if tensor.requires_grad]
        same = [
            [parts._replace(tensors=tuple(own[id(tensor)] for tensor in parts.tensors)) for parts in group]
            for group in groups
        ]
        kernels: list[Tensor] = []

        def compose_all() -> None:
            kernels[:] = _kernels(same)

        def forward() -> None:
            compose_all()
            torch._foreach_copy_(self._kernels.places, [kernel.detach() for kernel in kernels])

        def backward() -> None:
            found = torch.autograd.grad(kernels, trained, self._given.places, retain_graph=True)
            torch._foreach_copy_(self._found.places, found)

        with torch.enable_grad():
            self.recorder.prepare(compose_all)
            self._kernels, self._given, self._found = _Pieces(kernels), _Pieces(kernels), _Pieces(trained)
            self.recorder.prepare(backward)
            self._forward, self._backward = self.recorder.record(forward), self.recorder.record(backward)
        # The factors without parameters lie outside of what was recorded, and are read at each replay.
        self._held = [group[0].form.fixed(len(group)) for group in groups]

    def kernels(self) -> list[Tensor]:
        """Compose them, of what the tensors hold now."""
        self._forward()
        return self._kernels.copied()

    def gradients(self, given: Sequence[Tensor]) -> Iterator[Tensor | None]:
        """Yield the gradients of ``tensors`` from those of the kernels."""
        torch._foreach_copy_(self._given.places, list(given))
        self._backward()
        found = iter(self._found.copied())
        for tensor in self.tensors:
            yield next(found) if tensor.requires_grad else None


def replayed(replay: Replay) -> tuple[Tensor, ...]:
    """Return the kernels of the groups of ``replay``, ``[O, C / groups, *taps]`` each, differentiable."""
    out: tuple[Tensor, ...] = _Replayed.apply(replay, *replay.tensors)  # type: ignore[no-untyped-call]
    return out


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, replay: Replay, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.replay, ctx.versions = replay, versions_of(tensors)
        ctx.set_materialize_grads(False)
        return tuple(replay.kernels())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        replay: Replay = ctx.replay
        require_unchanged(replay.tensors, ctx.versions)
        given = [grad for grad in grads if grad is not None]
        if len(given) == len(grads) and not torch.is_grad_enabled():
            return None, *replay.gradients(given)
        # A layer was not called, or gradients of gradients are wanted: these pass through the tensors.
        with torch.enable_grad():
            kernels = _kernels(replay.groups)
        used = [kernel for kernel, grad in zip(kernels, grads, strict=True) if grad is not None]
        trained = [tensor for tensor in replay.tensors if tensor.requires_grad]
        found = iter(
            torch.autograd.grad(used, trained, given, create_graph=torch.is_grad_enabled(), allow_unused=True)
        )
        return None, *(next(found) if tensor.requires_grad else None for tensor in replay.tensors)


class _Pieces:
    """Room for tensors as ``like``, in one piece of memory, which one launch copies."""

    def __init__(self, like: Sequence[Tensor]) -> None:
        sizes = [-(-tensor.numel() // _PIECE) * _PIECE for tensor in like]
        self._memory = torch.zeros(sum(sizes), dtype=like[0].dtype, device=like[0].device)
        strides = (torch.empty_like(tensor, device="meta").stride() for tensor in like)
        starts = accumulate(sizes[:-1], initial=0)
        self._layout = [
            (t.shape, stride, start) for t, stride, start in zip(like, strides, starts, strict=True)
        ]
        self.places = self._of(self._memory)

    def copied(self) -> list[Tensor]:
        return self._of(self._memory.clone())

    def _of(self, memory: Tensor) -> list[Tensor]:
        return [memory.as_strided(*layout) for layout in self._layout]


def _kernels(groups: Groups) -> list[Tensor]:
    return [kernel for group in groups for kernel in compose(group)]
