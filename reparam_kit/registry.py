"""Registries of what is found by its name: in this project, in installed packages, and in a file of the user's."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Collection, Iterator
from hashlib import sha256
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, Generic, TypeVar

from reparam_kit.errors import InputError, suggestion
from reparam_kit.files import require_file
from reparam_kit.points import entry_points, load_point, reason

Kind = TypeVar("Kind")

_IMPORTED: dict[str, str] = {}
FILE_OF_USER = "imported_"
"""How the modules' names begin that ``import_file`` makes."""


class Registry(Collection[str], Generic[Kind]):
    """Things of one kind by their names: those of ``home``, of installed packages, and those that users define.

    A base class adds each of its subclasses in ``__init_subclass__``. ``home`` and entry points are imported when a
    name is first looked up that is not known yet, so a module that only names things need not import them.

    Args:
        kind: what each thing is, for messages: "loss".
        home: the module whose import adds those that this project brings.
        group: the group of entry points of others.
        made: makes a thing of a name and what the entry point of that name leads to. None: that is a class, or a
            module, whose import adds what it brings.

    >>> colours = Registry("colour", "colours", "my_package.colours")
    >>> colours.add("red", "#ff0000")
    >>> colours["red"]
    '#ff0000'
    """

    def __init__(
        self, kind: str, home: str, group: str, made: Callable[[str, Any], Kind] | None = None
    ) -> None:
        self.kind, self.home, self.group = kind, home, group
        self._made = made
        self._known: dict[str, Kind] = {}
        self._broken: dict[str, str] = {}  # entry points that cannot be loaded, and why
        self._loaded = False

    def add(self, name: str, made: Kind) -> None:
        """Know ``made`` as ``name``; a class that is defined again takes the place of the old one.

        Raises:
            InputError: another thing has the name, or no name can be written so.
        """
        if not name.isidentifier():
            raise InputError(f"name={name!r} of {_called(made)} is no name: use letters, digits and _")
        old = self._known.get(name, made)
        if _called(old) != _called(made):
            raise InputError(
                f"{_called(made)} cannot be the {self.kind} {name!r}, which is {_called(old)}: give it another name"
            )
        self._known[name] = made

    def __getitem__(self, name: str) -> Kind:
        """Find the thing of a name. Raises InputError where there is none."""
        if name in self:
            return self._known[name]
        if name in self._broken:
            raise InputError(f"the {self.kind} {name!r} cannot be loaded: {self._broken[name]}")
        raise InputError(
            f"there is no {self.kind} {name!r} (one of your own is known once its module is imported): "
            f"{suggestion(str(name), self._known, 'names')}"
        )

    def __contains__(self, name: object) -> bool:
        if name not in self._known:
            self._load()
        return name in self._known

    def __iter__(self) -> Iterator[str]:
        """Go through all names: those of this project first, in the order of their definition."""
        self._load()
        return iter(list(self._known))

    def __len__(self) -> int:
        self._load()
        return len(self._known)

    def foreign(self, name: str) -> bool:
        """Return whether the class of a name is another's, and not this project's."""
        return not f"{self[name].__module__}.".startswith(f"{self.home}.")

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        import_module(self.home)
        for point in entry_points(self.group):
            try:
                found = load_point(point)
                if self._made is not None:
                    self.add(point.name, self._made(point.name, found))
                elif point.name not in self._known:
                    self._broken[point.name] = f"{point.value} brings no {self.kind} of that name"
            except InputError as error:
                self._broken.setdefault(point.name, f"{point.value}: {error}")
                if point.name in self._known:
                    logging.getLogger(__name__).warning("%s is left out: %s", point.value, error)


def import_file(path: str | Path) -> ModuleType:
    """Run a Python file as a module, which may import others beside it. It can do anything: run what you trust.

    Raises:
        InputError: it is no file, or fails; the message names the line.

    >>> _ = Path("mine.py").write_text("SIZE = 3")
    >>> import_file("mine.py").SIZE
    3
    """
    path = require_file(path, "a Python module").resolve()
    name = f"{FILE_OF_USER}{path.stem}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python module: its name ends in .py")
    module = module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
        _IMPORTED[path.name] = sha256(path.read_bytes()).hexdigest()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # it is the user's, and may raise anything
        del sys.modules[name]
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        raise InputError(f"{place}: {reason(error)}") from error
    return module


def imported_files() -> dict[str, str]:
    """Return the sha256 of the files that ``import_file`` has run in this process, by their names: what they did is not
    ours.

    >>> _ = Path("my_losses.py").write_text("SIZE = 3")
    >>> _ = import_file("my_losses.py")
    >>> imported_files()["my_losses.py"][:8]
    '63c8c9f0'
    """
    return dict(_IMPORTED)


def _called(thing: Any) -> str:
    """Return what a class is called, wherever it is defined again, and anything else by what is in it."""
    return f"{thing.__module__}.{thing.__qualname__}" if isinstance(thing, type) else repr(thing)
