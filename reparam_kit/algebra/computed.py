"""A layer's weight or bias that is computed at each look at it: it can be read, and not be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from reparam_kit.errors import InputError

METADATA = {
    *("device", "dtype", "get_device", "is_cuda", "itemsize", "element_size", "nbytes", "requires_grad"),
    *("dim", "ndim", "ndimension", "shape", "size", "numel", "nelement", "__len__", "names"),
    *("layout", "stride", "is_contiguous", "is_complex", "is_floating_point"),
    *("is_nested", "is_quantized", "is_sparse"),
}
"""Attributes and methods of a tensor that say nothing about its values: reading them is no use of it."""

_WRITING = {"__setitem__", "__set__", "__delete__"} | {
    f"__i{name}__"
    for name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
}


def is_metadata(function: object) -> bool:
    """Return whether a function, as a function mode sees it, reads no values."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        name = getattr(function.__self__, "__name__", "")  # type: ignore[attr-defined]
    return name in METADATA


class Computed(Tensor):
    """What ``computed`` returns. Views of it are guarded as it is; what is computed from it is a plain tensor."""

    layer: str
    unreadable: str | None

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        own = next(value for value in _flat(args, kwargs) if isinstance(value, cls))
        written = [next(iter((*args, *kwargs.values())))] if _writes(func) else []
        if any(isinstance(value, cls) for value in (*written, *_flat((kwargs.get("out"),), {}))):
            raise InputError(
                f"{own.layer}: its weight is the sum of the branches, computed anew at each look, so that what is "
                "written into it would be lost; write into its .base, or fold first"
            )
        if own.unreadable is not None and not is_metadata(func):
            raise InputError(f"{own.layer}: {own.unreadable}")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            storage = own.untyped_storage()._cdata

            def guard(value: Tensor) -> Tensor:
                shared = not isinstance(value, cls) and value.untyped_storage()._cdata == storage
                return computed(value, own.layer, own.unreadable) if shared else value

            return tree_map_only(Tensor, guard, result)


def computed(value: Tensor, layer: str, unreadable: str | None = None) -> Tensor:
    """Return ``value`` as a tensor into which nothing can be written; with ``unreadable`` its values cannot be used
    either.

    Both raise InputError, which names ``layer`` and says ``unreadable``.
    """
    guarded = value.as_subclass(Computed)
    guarded.layer, guarded.unreadable = layer, unreadable
    return guarded


def _writes(function: Callable[..., Any]) -> bool:
    name = function.__name__
    return name in _WRITING or (name.endswith("_") and not name.startswith("__"))


def _flat(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Arguments, and what stands in lists of them, as ``torch.cat`` takes it."""
    values: list[Any] = []
    for value in (*args, *kwargs.values()):
        values += value if isinstance(value, list | tuple) else [value]
    return values
