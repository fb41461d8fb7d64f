"""What ``apply_tsmr`` is given, held against the kinds that it takes, before anything is read or made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from recipes.faces import Judge, PairSet, TemplateSet
from recipes.tsmr.config import TSMRConfig
from reparam_kit import InputError

_PATH = (str, Path)
_PLACES = ("cache", "checkpoint")


def require_kinds(given: Mapping[str, Any]) -> None:
    """Refuse an argument of another kind than ``apply_tsmr`` takes, and a path that names nothing.

    Raises:
        InputError: the message names the argument and what it may be.
    """
    for name, value in given.items():
        if name in ("teacher", "teacher_weights", "val") and isinstance(value, list | tuple):
            if name == "val" and not value:
                raise InputError("val is an empty list: give what judges the model, or None")
            for number, one in enumerate(value):
                _require(name, one, f"{name}[{number}]")
        elif value is not None or name not in ("teacher_weights", "val", *_PLACES):
            _require(name, value, name)


def _require(name: str, value: Any, called: str) -> None:
    right, wanted = {
        "model": (isinstance(value, nn.Module), "a module; reparam_kit.load makes one of a file"),
        "teacher": (
            isinstance(value, (*_PATH, nn.Module)),
            "the path of an .onnx file, a module, package.module:factory, or a list of these",
        ),
        "data": (
            isinstance(value, _PATH) or _is_dataset(value),
            "what read_faces opens, or a dataset with a length whose items are (image, label), dicts or images"
            + (": the dataset of the loader" if isinstance(value, DataLoader) else ""),
        ),
        "val": (
            isinstance(value, (*_PATH, PairSet, TemplateSet, Judge)),
            "the path of a verification set, pairs (read_pairs), a judge, a list of these, or None",
        ),
        "config": (isinstance(value, TSMRConfig), "a TSMRConfig"),
        "log_to": (_is_texts(value), 'the name of a logger, such as "csv:run.csv", or a list of these'),
    }.get(name, (isinstance(value, _PATH), "a path, or None"))
    if not right:
        raise InputError(f"{called} is of type {type(value).__name__}: give {wanted}")
    if isinstance(value, _PATH) and name != "log_to":
        _require_name(called, value)


def _is_texts(value: Any) -> bool:
    several = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(text, str) for text in several)


def _is_dataset(value: Any) -> bool:
    if isinstance(value, IterableDataset):
        return True
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, Mapping)


def _require_name(called: str, path: str | Path) -> None:
    """Refuse an empty path: it is the current folder to Python, and what an unset variable gives."""
    if not str(path) or "\0" in str(path):
        raise InputError(f"{called}={str(path)!r} is no path")
    if called == "checkpoint" and not Path(path).name:
        raise InputError(f"checkpoint={str(path)!r} is a folder: name a file in it")
