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

from reparam_kit.algebra.composition import Composed, Form, Parts, compose
from reparam_kit.algebra.stock import PASSIVE

_MOST = 2**19
"""Numbers in the kernels that are composed together: larger ones hide a launch, and would be copied for nothing."""

_State = tuple[tuple[int, int, int, bool], ...]
"""What tells one value of a layer's tensors from another, as far as torch can tell."""


def _state(tensors: Sequence[Tensor]) -> _State:
    return tuple((id(t), t._version, t.data_ptr(), t.requires_grad) for t in tensors)


def _mode(device: torch.device) -> tuple[bool, bool, bool]:
    """Return what decides of what use a kernel is that is made now."""
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), capturing


class _Member(NamedTuple):
    """A layer as it was when the pass first looked at it."""

    layer: Composed
    parts: Parts
    tensors: list[Tensor]
    state: _State


class _Made(NamedTuple):
    """A kernel (None: it is left to torch's own operators), and what it was made of."""

    kernel: Tensor | None
    state: _State
    mode: tuple[bool, bool, bool]
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
        self._made: dict[int, _Made] = {}
        self._groups: dict[int, list[_Member]] | None = None

    def renew(self) -> None:
        """Begin anew: parameters have been changed."""
        self._made, self._groups = {}, None

    def kernel(self, layer: Composed, tensors: list[Tensor]) -> Tensor | None:
        """Return the kernel of a layer that owns ``tensors``."""
        if self._groups is None:
            self._groups = _groups(self.model)
        state, mode = _state(tensors), _mode(tensors[0].device)
        if id(layer) not in self._made and id(layer) in self._groups:
            group = self._groups[id(layer)]
            kernels = compose([member.parts for member in group])
            for member, kernel in zip(group, kernels, strict=True):
                self._keep(member.layer, kernel, member.tensors, member.state, mode)
        made = self._made.get(id(layer))
        if made is None or made.state != state or made.mode != mode:
            return self._keep(layer, _alone(layer), tensors, state, mode)
        return made.kernel

    def _keep(
        self,
        layer: Composed,
        kernel: Tensor | None,
        tensors: list[Tensor],
        state: _State,
        mode: tuple[bool, bool, bool],
    ) -> Tensor | None:
        held = tensors if self.called else [*tensors, *(tensor.untyped_storage() for tensor in tensors)]
        self._made[id(layer)] = _Made(kernel, state, mode, held)
        return kernel


def _groups(model: nn.Module) -> dict[int, list[_Member]]:
    """Return the layers that are composed together with each, by its ``id``: of one form, and not too much at once."""
    by_form: dict[Form, list[_Member]] = {}
    for layer in model.modules():
        if isinstance(layer, Composed) and _known(tensors := layer.owned()) and (parts := layer.parts()):
            by_form.setdefault(parts.form, []).append(_Member(layer, parts, tensors, _state(tensors)))
    groups = {}
    for form, members in by_form.items():
        together = max(1, _MOST // form.layouts[0].shape.numel())
        for start in range(0, len(members), together):
            group = members[start : start + together]
            groups.update({id(member.layer): group for member in group})
    return groups


def _alone(layer: Composed) -> Tensor | None:
    parts = layer.parts()
    return None if parts is None else compose([parts])[0]


def _known(tensors: Sequence[Tensor]) -> bool:
    """Return whether tensors are such as torch tells all of; others are known to their own operators alone."""
    return all(type(tensor) in (nn.Parameter, Tensor) and not tensor.is_inference() for tensor in tensors)


_PASS: ContextVar[_Pass | None] = ContextVar("pass", default=None)


def kernel_of(layer: Composed) -> Tensor | None:
    """Return the kernel of a layer in the present pass; None: it is left to torch's own operators."""
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    tensors = layer.owned()
    if not _known(tensors):
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
