"""Copies of a model in which modules are substituted while copying.

Every reference to a module (one called at several places, a Python list, an fx graph) then leads to its substitute,
and the copy never holds both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from reparam_kit.closures import rebind
from reparam_kit.errors import ReparamError, UnsupportedError, first_line

Model = TypeVar("Model", bound=nn.Module)

_MANY = (dict, list, tuple, set)


class StandIn(nn.Module):
    """A module in the place of another, which it holds as ``HELD``: public attributes that it lacks are that one's.

    Nothing else is: a ``__deepcopy__`` or ``__getstate__`` of the module held would copy that one alone.
    """

    HELD: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        # fx keeps modules whole whose __module__ says torch.nn, and so do the tracers that derive from its own.
        self.__dict__["__module__"] = "torch.nn.reparam_kit"

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == self.HELD or name.startswith("__"):
                raise
            return getattr(getattr(self, self.HELD), name)

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__.get("_modules", {}).get(self.HELD)
        method = callable(getattr(type(self), name, None))
        own = name.startswith("_") or name in self.__dict__ or method or isinstance(value, nn.Module)
        if held is None or own:
            super().__setattr__(name, value)
        else:
            setattr(held, name, value)


def with_stand_ins(model: Model, kind: type[StandIn], arguments: Mapping[str, tuple[Any, ...]]) -> Model:
    """Return a deep copy of ``model`` with ``kind(module, *arguments[name])`` in the place of each module named.

    Raises UnsupportedError, which names the part that cannot be copied.
    """
    modules = dict(model.named_modules())
    chosen = {name: modules[name] for name in arguments}
    stand_ins = {name: kind.__new__(kind) for name in arguments}
    with copying(model) as memo:
        memo.update({id(chosen[name]): stand_in for name, stand_in in stand_ins.items()})
        for name, stand_in in stand_ins.items():
            held = fill(blank(chosen[name]), chosen[name], memo)
            stand_in.__init__(held, *arguments[name])  # type: ignore[misc]
        return deep_copy(model, memo, stand_ins.values())


def duplicate(model: Model) -> Model:
    """Copy ``model`` so that nothing of the copy leads back to it.

    Hooks and forwards that are functions over parts of the model work on those of the copy, which ``copy.deepcopy``
    leaves with the model's own.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    >>> hook = net[1].register_forward_hook(lambda module, args, out: out + net[0].bias.mean())
    >>> copied = duplicate(net)
    >>> _ = nn.init.zeros_(net[0].bias)
    >>> bool(copied[0].bias.any())
    True

    Raises:
        UnsupportedError: a part cannot be copied; the message names it.
    """
    with copying(model) as memo:
        return deep_copy(model, memo, ())


def blank(module: Model) -> Model:
    """Return an instance to be filled once all references to it are known."""
    return module.__class__.__new__(module.__class__)


def fill(copied: Model, module: Model, memo: dict[int, object]) -> Model:
    """Make ``copied`` a deep copy of ``module``, where ``memo`` holds what each substituted module becomes."""
    # What was compiled runs the module that it was compiled for, not the copy.
    state = {key: value for key, value in vars(module).items() if key != "_compiled_call_impl"}
    copied.__dict__ = copy.deepcopy(state, memo)
    return copied


def deep_copy(model: Model, memo: dict[int, object], expected: Iterable[nn.Module]) -> Model:
    """Return a deep copy of ``model`` by way of ``memo``, which has all of ``expected`` among its modules.

    Raises UnsupportedError, which names the part that loses them.
    """
    copied = copy.deepcopy(model, memo)
    if not set(expected) <= set(copied.modules()):
        own = {type(part).__name__ for part in model.modules() if hasattr(type(part), "__deepcopy__")}
        raise UnsupportedError(
            f"the copy of the model has lost layers that it was to hold: {', '.join(sorted(own)) or 'a part of it'} "
            "copies itself in a way of its own (__deepcopy__); remove that, or use the parts within"
        )
    for parameter in copied.parameters():
        # TorchScript copies its parameters with a gradient history, so that none trains.
        if not parameter.is_leaf:
            parameter.detach_().requires_grad_()
    return copied


@contextmanager
def copying(model: nn.Module) -> Iterator[dict[int, object]]:
    """Keep a memo for copies of parts of ``model``; at the end, functions that they hold lead to the copies too.

    Raises UnsupportedError, which names the part that cannot be copied, where one cannot.
    """
    try:
        with torch.inference_mode(False):  # what is copied there could not be trained
            memo = _detached(model)
            yield memo
            rebind(memo)
    except ReparamError:
        raise
    except Exception as error:  # a __deepcopy__ or __reduce__ may raise anything
        raise _not_copied(model, error) from error


def _detached(model: nn.Module) -> dict[int, object]:
    """Return a memo for ``copy.deepcopy``, which refuses tensors with a gradient history: those that modules keep,
    without.
    """
    tensors = (tensor for module in model.modules() for _, tensor in kept(module))
    return {id(tensor): tensor.detach().clone() for tensor in tensors if not tensor.is_leaf}


def kept(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that are attributes or buffers of ``module``, or stand in its lists and dicts, with their names."""
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, _MANY) and value and name not in ("_parameters", "_modules"):
            for tensor in _tensors(value):
                yield name, tensor


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, _MANY):
            yield from _tensors(value)


def _not_copied(model: nn.Module, error: Exception) -> UnsupportedError:
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            try:
                if name not in ("_parameters", "_buffers", "_modules"):
                    copy.deepcopy(value, _detached(model))
            except Exception as own:  # the one that the whole copy failed with
                where = ".".join(filter(None, (path, name)))
                return UnsupportedError(
                    f"the model cannot be copied: its attribute {where} is a {type(value).__name__} "
                    f"({first_line(own)}); take it away, and put it back on the copy"
                )
    return UnsupportedError(f"the model cannot be copied: {first_line(error)}")
