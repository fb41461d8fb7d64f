"""When kernels are composed: all that a pass through the net needs, by form, as soon as the first of a form is called.

A pass is a call of the model that was expanded, or what ``composed`` encloses. A layer that is called outside of one is
composed by itself, anew at each call: a parameter can be changed in ways that leave no trace (by way of ``.data``, or
in a CUDA graph), so no kernel outlives its pass. Within a pass each layer looks whether the tensors that its kernel was
made of are still there, unchanged as far as torch can tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from reparam_kit.algebra.composition import Composed, compose
from reparam_kit.algebra.earlier import RECORDED_ON, replayed_members
from reparam_kit.algebra.members import Member, State, are_known, groups_of, state_of
from reparam_kit.algebra.stock import PASSIVE

_Mode = tuple[bool, bool, bool]
_TRAINING: _Mode = (True, False, False)


def _mode(device: torch.device) -> _Mode:
    """Return what decides of what use a kernel is that is made now."""
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), capturing


class _Made(NamedTuple):
    """A kernel (None: it is left to torch's own operators), and what it was made of."""

    kernel: Tensor | None
    state: State
    mode: _Mode
    held: list[Any]
    """Tensors and memory that no others may take the place of."""


class _Pass:
    """The kernels of one pass.

    Args:
        model: the model that is called, or enclosed.
        outer: the pass in which this one stands.
        called: whether the model's call has opened it, and closes it.
    """

    def __init__(self, model: nn.Module, outer: _Pass | None, called: bool) -> None:
        self.model, self.outer, self.called = model, outer, called
        self.renew()

    def renew(self) -> None:
        """Begin anew: parameters have been changed."""
        self._made: dict[int, _Made] = {}
        self._groups: dict[int, list[Member]] | None = None
        self._begun = False

    def kernel(self, layer: Composed, tensors: list[Tensor]) -> Tensor | None:
        """Return the kernel of a layer that owns ``tensors``."""
        state, mode = state_of(tensors), _mode(tensors[0].device)
        if not self._begun and tensors[0].device.type in RECORDED_ON and mode == _TRAINING:
            self._keep_all(*replayed_members(self.model), mode)
        self._begun = True
        if id(layer) not in self._made:
            self._compose_with(layer, mode)
        made = self._made.get(id(layer))
        if made is None or made.state != state or made.mode != mode:
            return self._keep(layer, _alone(layer), tensors, state, mode)
        return made.kernel

    def _compose_with(self, layer: Composed, mode: _Mode) -> None:
        """Compose the layers that are composed together with ``layer``."""
        if self._groups is None:
            self._groups = {id(member.layer): group for group in groups_of(self.model) for member in group}
        group = self._groups.get(id(layer), [])
        self._keep_all(group, compose([member.parts for member in group]) if group else (), mode)

    def _keep_all(self, members: Sequence[Member], kernels: Sequence[Tensor], mode: _Mode) -> None:
        for member, kernel in zip(members, kernels, strict=True):
            self._keep(member.layer, kernel, member.tensors, member.state, mode)

    def _keep(
        self, layer: Composed, kernel: Tensor | None, tensors: list[Tensor], state: State, mode: _Mode
    ) -> Tensor | None:
        held = tensors if self.called else [*tensors, *(tensor.untyped_storage() for tensor in tensors)]
        self._made[id(layer)] = _Made(kernel, state, mode, held)
        return kernel


def _alone(layer: Composed) -> Tensor | None:
    parts = layer.parts()
    return None if parts is None else compose([parts])[0]


_PASS: ContextVar[_Pass | None] = ContextVar("pass", default=None)


def kernel_of(layer: Composed) -> Tensor | None:
    """Return the kernel of a layer in the present pass; None: it is left to torch's own operators."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    tensors = layer.owned()
    if not are_known(tensors):
        return None
    present = _PASS.get()
    return _alone(layer) if present is None else present.kernel(layer, tensors)


@contextmanager
def composed(model: nn.Module) -> Iterator[None]:
    """Compose the kernels of an expanded model once for all that is enclosed, instead of once in each call of it.

    For several passes between two steps of the optimizer: two views of the same images, or batches whose gradients are
    accumulated. A parameter that is changed within is seen, as long as torch sees it: not by way of ``.data``.

    >>> student = rk.expand(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    >>> views = torch.randn(2, 4, 3, 16, 16)
    >>> with composed(student):
    ...     loss = (student(views[0]) - student(views[1])).square().mean()
    >>> loss.backward()
    """
    shared = _Pass(model, _PASS.get(), called=False)
    token = _PASS.set(shared)
    # What is "fused" leaves no trace on the parameters.
    stepped = register_optimizer_step_post_hook(lambda *_: shared.renew())
    try:
        yield
    finally:
        stepped.remove()
        _PASS.reset(token)


def compose_when_called(model: nn.Module) -> None:
    """Make each call of ``model`` a pass, unless that is a layer alone."""
    if not isinstance(model, Composed) and _open not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_open, prepend=True)
        model.register_forward_hook(_close, always_call=True)


def forget(model: nn.Module) -> None:
    """Undo ``compose_when_called``, for ``model`` and all within."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if hook is _open or hook is _close]:
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)


def _open(model: nn.Module, args: Any) -> None:
    if torch.compiler.is_compiling():
        return
    present = _PASS.get()
    if present is not None and present.called and present.model is model:  # an interrupt has left it open
        present = present.outer
    if present is None or not any(part is model for part in present.model.modules()):
        _PASS.set(_Pass(model, present, called=True))


def _close(model: nn.Module, args: Any, output: Any) -> None:
    if torch.compiler.is_compiling():
        return
    present = _PASS.get()
    if present is not None and present.called and present.model is model:
        _PASS.set(present.outer)


PASSIVE += [_open, _close]
