"""Signatures as a reader needs them: a name that only the source knows stands as what it means.

An extension of griffe, which mkdocstrings reads signatures with. ``Named`` becomes ``str | Path``, ``Rate`` the
``float | None`` within its ``Annotated``, and the default ``_DEFAULTS`` the ``TSMRConfig()`` behind it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import griffe

_Meaning = str | griffe.Expr | None


class Whole(griffe.Extension):
    """Puts the meaning of aliases and of private defaults into the signatures of a package."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self._walk(pkg)

    def _walk(self, thing: griffe.Object) -> None:
        for member in list(thing.members.values()):
            if isinstance(member, griffe.Alias):
                continue
            if isinstance(member, griffe.Function):
                member.returns = _meaning(member.returns)
                for parameter in member.parameters:
                    parameter.annotation = _meaning(parameter.annotation)
                    parameter.default = _default(parameter.default)
            elif isinstance(member, griffe.Attribute):
                member.annotation = _meaning(member.annotation)
            self._walk(member)


def _meaning(annotation: _Meaning) -> _Meaning:
    """Return ``annotation`` with each alias in it replaced, and of ``Annotated`` the type alone."""
    if isinstance(annotation, griffe.ExprName):
        value = _value(annotation)
        named = not isinstance(value, griffe.ExprCall | str | None)  # a TypeVar stays
        return _meaning(value) if named and annotation.name[0].isupper() else annotation
    if isinstance(annotation, griffe.ExprSubscript) and annotation.canonical_path == "typing.Annotated":
        first = annotation.slice.elements[0] if isinstance(annotation.slice, griffe.ExprTuple) else None
        return _meaning(first)
    if isinstance(annotation, griffe.Expr):
        for field in fields(annotation):
            inner = getattr(annotation, field.name)
            if isinstance(inner, griffe.Expr) and field.name != "parent":
                setattr(annotation, field.name, _meaning(inner))
            elif isinstance(inner, list):
                setattr(annotation, field.name, [_meaning(one) for one in inner])
    return annotation


def _default(default: _Meaning) -> _Meaning:
    """Return what a private name stands for; ``None`` and numbers are what they are."""
    private = isinstance(default, griffe.ExprName) and default.name.startswith("_")
    return (_value(default) or default) if private else default


def _value(name: griffe.ExprName) -> _Meaning:
    """Return what the module-level name is set to, or None where it is a class or of another package."""
    parent = name.parent
    if not isinstance(parent, griffe.Module | griffe.Class | griffe.Function):
        return None
    try:
        found = parent.modules_collection[name.canonical_path]
    except (KeyError, griffe.AliasResolutionError):
        return None
    return found.value if isinstance(found, griffe.Attribute) else None
