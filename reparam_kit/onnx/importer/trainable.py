"""Choosing by name which tensors of an imported model are trained."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import fx

from reparam_kit.errors import InputError, suggestion
from reparam_kit.onnx.provenance import Provenance


def train_only(model: fx.GraphModule, include: Sequence[str] | None, exclude: Sequence[str] | None) -> None:
    """Take the gradient from parameters of an imported model that ``include`` does not name or ``exclude`` does.

    The patterns (as in fnmatch) are held against a parameter's name in the model and that of its tensor in the file.

    Raises:
        InputError: a pattern that matches no parameter that can be trained.
    """
    provenance: Provenance = model.meta["onnx"]
    names = {
        name: {name, provenance.tensors[name].name}
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.requires_grad
    }
    known = set().union(*names.values())
    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns or ():
            if not any(fnmatchcase(name, pattern) for name in known):
                raise InputError(
                    f"{option} {pattern!r} matches no tensor that can be trained; "
                    + suggestion(pattern, sorted(known), "tensors")
                )
    frozen = [
        name
        for name, both in names.items()
        if (include is not None and not _matches(both, include)) or _matches(both, exclude or ())
    ]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)


def _matches(names: set[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)
