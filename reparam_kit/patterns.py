"""``include`` and ``exclude``: what a user's patterns leave out."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from reparam_kit.errors import InputError, suggestion

Thing = TypeVar("Thing", bound=Hashable)


def left_out(
    called: Mapping[Thing, Collection[str]],
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    kind: str,
) -> dict[Thing, str]:
    """Give the reason of each thing that patterns (as in fnmatch) leave out, by any of the names that it is called.

    >>> left_out({1: ["stem"], 2: ["head", "fc"]}, None, ["f*"], "layer")
    {2: 'excluded'}

    Raises:
        InputError: a pattern matches none of the names; ``kind`` is what the message calls the things.
    """
    names = sorted({name for several in called.values() for name in several})
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns or ():
            if not _matches(names, [pattern]):
                hint = suggestion(pattern, names, f"{kind}s")
                raise InputError(f"{option}={pattern!r} matches no {kind}; {hint}")
    reasons = {}
    for thing, several in called.items():
        if include is not None and not _matches(several, include):
            reasons[thing] = "not included"
        elif _matches(several, exclude or ()):
            reasons[thing] = "excluded"
    return reasons


def _matches(names: Collection[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
