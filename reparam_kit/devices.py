"""Where a model runs: the device that a name stands for, tried, and what is done where it has no float64."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from reparam_kit.errors import InputError, first_line
from reparam_kit.substitution import duplicate

LOGGER = logging.getLogger(__name__)

Surgery = TypeVar("Surgery", bound=Callable[..., nn.Module])

_WITHOUT_FLOAT64 = {"mps"}


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device of that name, once a tensor was there and back.

    Args:
        name: as torch has it, such as ``cuda:1``; or ``auto``: CUDA where that is and works, else MPS, else the CPU.

    Raises:
        InputError: there is no such device; the message names those that are there.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if str(name) != "auto":
        try:
            return _tried(name)
        except (RuntimeError, AssertionError, ImportError) as error:
            # AssertionError: a torch built without CUDA.
            reason = first_line(error).partition(". ")[0].removesuffix(".")
            raise InputError(
                f"there is no device {str(name)!r} (--device): {reason}; there are {', '.join(_present())}"
            ) from error
    for best in (kind for kind, there in _accelerators().items() if there):
        try:
            return _tried(best)
        except Exception as error:  # a driver that is too old, a card that is full: whatever a backend raises
            LOGGER.warning("%s is there and is not used: %s", best.upper(), first_line(error))
    return torch.device("cpu")


def name_device(device: torch.device) -> str:
    """Return what a device is called, and why it is not a better one.

    >>> name_device(torch.device("cpu")).startswith("cpu")
    True
    """
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    missing = [
        f"no {kind.upper()}" for kind, there in _accelerators().items() if not there and kind != device.type
    ]
    return f"{device} ({', '.join(missing)})" if missing else str(device)


def _accelerators() -> dict[str, bool]:
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def _present() -> list[str]:
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [*(f"cuda:{i}" for i in range(cuda)), *["mps"] * torch.backends.mps.is_available(), "cpu"]


def without_float64(surgery: Surgery) -> Surgery:
    """Return ``surgery``, done with a copy on the CPU and brought back where a model's device has no float64 (MPS)."""

    @wraps(surgery)
    def done(model: nn.Module, *args: Any, **options: Any) -> nn.Module:
        place = next((p.device for p in model.parameters() if p.device.type in _WITHOUT_FLOAT64), None)
        if place is None:
            return surgery(model, *args, **options)
        given = {name: _on_cpu(value) for name, value in options.items()}
        return surgery(duplicate(model).cpu(), *map(_on_cpu, args), **given).to(place)

    return cast("Surgery", done)


def _on_cpu(value: Any) -> Any:
    """Return inputs, or batches of inputs, with their tensors on the CPU; anything else as it is."""
    if hasattr(value, "__next__"):
        return map(_on_cpu, value)
    return tree_map_only(Tensor, Tensor.cpu, value)


def _tried(name: str | torch.device) -> torch.device:
    held = torch.zeros(1, device=name)
    held.cpu()  # "meta" holds nothing
    return held.device
