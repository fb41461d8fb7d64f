"""Choosing by name which weights of a model are trained."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from reparam_kit.patterns import left_out


def train_only(
    model: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> None:
    """Take the gradient from parameters of ``model`` that ``include`` does not name or ``exclude`` does, in place.

    The patterns (as in fnmatch) are held against a parameter's name, that of its layer and, in a model that came from
    an ONNX file, that of its tensor there. A parameter that several layers share goes by the names of all.

    Raises:
        InputError: a pattern that matches no parameter that can be trained.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 2))
    >>> train_only(net, exclude=["0"])
    >>> [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    ['1.weight', '1.bias']
    """
    provenance = getattr(model, "meta", {}).get("onnx")
    names: dict[nn.Parameter, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad:
            called = names.setdefault(parameter, set())
            called |= {name, name.rpartition(".")[0]} - {""}
            if provenance is not None and name in provenance.tensors:
                called.add(provenance.tensors[name].key.name)
    for parameter in left_out(names, include, exclude, "trainable tensor"):
        parameter.requires_grad_(False)
