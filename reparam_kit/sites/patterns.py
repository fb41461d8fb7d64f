"""``include`` and ``exclude``: which layers a user's patterns leave out."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from reparam_kit.errors import InputError


def left_out(
    names: Sequence[str], include: Sequence[str] | None, exclude: Sequence[str] | None
) -> dict[str, str]:
    """The reason of each name that the patterns (as in fnmatch) leave out.

    Raises:
        InputError: a pattern matches none of the names.
    """
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                known = f"{', '.join(names[:3])} ..." if names else "none: the model has no convolution"
                raise InputError(f"{option}={pattern!r} matches no layer; their names are {known}")
    reasons = {}
    for name in names:
        if include is not None and not any(fnmatchcase(name, pattern) for pattern in include):
            reasons[name] = "not included"
        elif any(fnmatchcase(name, pattern) for pattern in exclude or ()):
            reasons[name] = "excluded"
    return reasons
