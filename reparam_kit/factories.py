"""Factories that a user names: ``package.module:factory``, or with arguments ``package.module:factory(depth=18)``."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn

from reparam_kit.errors import InputError, first_line

_NAMED = re.compile(r"(?P<module>[^:()]*):(?P<function>[^:()]*)(?P<call>\(.*\))?", re.DOTALL)
_FILES = (".onnx", ".pt", ".pth", ".safetensors")


def is_factory(model: object) -> bool:
    """Return whether ``model`` is a text that names a factory, and no file.

    >>> is_factory("package.nets:resnet(depth=18)"), is_factory("C:/nets/missing.onnx")
    (True, False)
    """
    if not isinstance(model, str | os.PathLike):
        return False
    name = os.fspath(model)
    return isinstance(name, str) and ":" in name and not name.endswith(_FILES) and not _exists(name)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # a name that is too long, or has a NUL, is none of a file
        return False


def make(name: str) -> nn.Module:
    """Import the factory that ``name`` names, and call it. Its arguments are literals: nothing is evaluated.

    Raises:
        InputError: the name or an argument is none, or the factory cannot be imported, fails, or makes no module.
    """
    found = _NAMED.fullmatch(name.strip())
    if found is None:
        raise InputError(
            f"{name} names no factory: write package.module:factory, or with arguments "
            "package.module:factory(depth=18)"
        )
    args, options = _arguments(name, found["call"] or "()")
    factory = _imported(name, found["module"], found["function"])
    _require_fit(name, factory, args, options)
    called = name if found["call"] else f"{name}()"
    try:
        model = factory(*args, **options)
    except Exception as error:  # it is the user's own code
        raise InputError(f"{called} fails: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{called} gave a {type(model).__name__}, not a torch.nn.Module")
    return model


def _arguments(name: str, call: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a backslash in a text
            read = ast.parse(f"factory{call}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{name}: its arguments cannot be read: {first_line(error)}") from None
    if not (isinstance(read, ast.Call) and isinstance(read.func, ast.Name)):
        raise InputError(f"{name}: one pair of brackets holds the arguments, and nothing follows it")
    options: dict[str, Any] = {}
    for option in read.keywords:
        if option.arg in options:
            raise InputError(f"{name}: the argument {option.arg} stands in it twice")
        options[str(option.arg)] = _literal(name, option if option.arg is None else option.value)
    return [_literal(name, value) for value in read.args], options


def _literal(name: str, value: Any) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        written = _written(value)
        raise InputError(
            f"{name}: {written} is no literal, and nothing is evaluated: give numbers, texts in quotes, True, False, "
            "None, and lists, tuples or dicts of these"
        ) from None


def _written(value: ast.AST) -> str:
    try:
        return ast.unparse(value)
    except RecursionError:
        return "an argument"


def _imported(name: str, module: str, function: str) -> Callable[..., Any]:
    try:
        with from_here():
            factory: Callable[..., Any] = attrgetter(function)(import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{name}: cannot import the factory: {first_line(error)}") from error
    except Exception as error:  # the user's own code
        raise InputError(
            f"{name}: importing it fails: {type(error).__name__}: {first_line(error)}"
        ) from error
    return factory


def _require_fit(name: str, factory: Callable[..., Any], args: list[Any], options: dict[str, Any]) -> None:
    """Refuse arguments that ``factory`` does not take, where it says which it does."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # it is nothing to call, or written in C
        return
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        raise InputError(f"{name}: {first_line(error)}: the factory's arguments are {signature}") from None


@contextmanager
def from_here() -> Iterator[None]:
    """Let imports find the user's own code in the current folder, as ``python -m`` does."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")
