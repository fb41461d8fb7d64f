"""Public names of a package that are imported on first use, and written once."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return the ``__getattr__``, ``__dir__`` and ``__all__`` of a package, as its ``__init__.py`` imports its names.

    A public name is one line there, ``from home import name as name``. Under ``if TYPE_CHECKING:`` type checkers and
    editors alone run it, and at run time ``home`` is imported when the name is first used::

        if TYPE_CHECKING:
            from my_package.heavy import compute as compute
        else:
            __getattr__, __dir__, __all__ = lazily(__name__)

    A name that a module of the package has too cannot be lazy: the import of that module would take its place.
    """
    homes = {
        name.name: node.module
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[package])))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in node.names
        if name.asname == name.name
    }
    public = sorted(homes)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return get, lambda: sorted(public), public
