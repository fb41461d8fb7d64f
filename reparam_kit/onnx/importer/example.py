"""What every value of a graph would be for one example input, found while the graph is built.

Shapes and types are what torch makes of tensors without numbers (the meta device). Values that are made from shapes
alone have their numbers. So ranks are known, and whether a value has come through with the batch, without ONNX's shape
inference, which ends the process on some damaged files and knows no operators but ONNX's.

Where the file leaves the batch free, the example has ``ROWS`` images; else as many as the file has.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from onnx import TypeProto
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.node import map_aggregate

from reparam_kit.errors import InputError, first_line
from reparam_kit.onnx.importer.values import dtype_of, held, leaves

ROWS = 17  # a prime that is hardly a layer's size, and small: what is made from shapes alone has its numbers
MOST = 2**25  # entries of a tensor that an import may make of smaller ones: 128 MiB of float32
_EXAMPLE = "example"


def input_example(info: TypeProto.Tensor, rows: int | None, size: int) -> Tensor | None:
    """Make one for a graph input: ``rows`` in the first of several dimensions, ``size`` in each that the file leaves
    free.

    Without ``rows`` it has no batch.
    """
    dtype = held(dtype_of(info.elem_type))
    if not info.HasField("shape"):
        return None
    sizes = [dim.dim_value if dim.dim_value > 0 else size for dim in info.shape.dim]
    if rows is not None and len(sizes) > 1:
        sizes[0] = rows
    try:
        return torch.empty(sizes, dtype=dtype, device="meta")
    except RuntimeError as error:
        raise InputError(f"an input of sizes {sizes} is damage: {first_line(error)}") from error


def call_example(function: Callable[..., Any], args: Any) -> Any:
    """Make one for ``function(*args)``, where ``args`` may hold graph nodes; ``None`` where it is not known.

    Raises :class:`InputError` where it would be a tensor with numbers, and too large.
    """
    if any(isinstance(leaf, fx.Node) and example(leaf) is None for leaf in leaves(args)):
        return None
    args = map_aggregate(args, lambda leaf: example(leaf) if isinstance(leaf, fx.Node) else leaf)
    known = [leaf.is_meta for leaf in leaves(args) if isinstance(leaf, Tensor)]
    if not any(known):
        check_size(function, args)
    elif not all(known):  # torch adds no tensor with numbers to one without
        args = map_aggregate(args, lambda leaf: on_meta(leaf) if isinstance(leaf, Tensor) else leaf)
    result = None
    with suppress(Exception), torch.no_grad():  # an operator may raise anything for sizes that do not fit
        result = function(*args)
    return result


def layer_example(module: nn.Module, inputs: tuple[fx.Node, ...]) -> Any:
    """Make one for ``module(*inputs)``."""
    tensors = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    state = {name: on_meta(tensor) for name, tensor in tensors}  # also what its state_dict leaves out

    def run(*values: Any) -> Any:
        inputs = tuple(on_meta(value) for value in values)
        return functional_call(
            module, state, inputs, tie_weights=False
        )  # one tensor may be two of its weights

    return call_example(run, inputs)


def example(node: fx.Node) -> Any:
    """Return what :func:`remember` was given for this node."""
    return node.meta[_EXAMPLE]


def remember(node: fx.Node, value: Any) -> fx.Node:
    """Return ``node``, with its example."""
    node.meta[_EXAMPLE] = value
    return node


def forget(graph: fx.Graph) -> None:
    """Leave no examples in a graph that is complete."""
    for node in graph.nodes:
        node.meta.pop(_EXAMPLE, None)


def on_meta(tensor: Tensor) -> Tensor:
    """Return ``tensor`` without its numbers."""
    return torch.empty_like(tensor, device="meta")


def check_size(function: Callable[..., Any], args: Any) -> None:
    """Raise :class:`InputError` where ``function(*args)`` has more than ``MOST`` entries, and more than its arguments.

    It is run without numbers to see. A function that cannot be run so has to look after itself.
    """
    given = sum(leaf.numel() for leaf in leaves(args) if isinstance(leaf, Tensor))
    args = map_aggregate(args, lambda leaf: on_meta(leaf) if isinstance(leaf, Tensor) else leaf)
    try:
        with torch.device("meta"):
            result = function(*args)
    except Exception as error:
        if "overflow" in str(error):  # of the size in bytes
            raise InputError("a constant of more bytes than can be counted, which is damage") from error
        return
    if isinstance(result, Tensor) and result.numel() > given:
        check_count(result.numel())


def check_count(entries: int) -> None:
    """Raise :class:`InputError` for more than ``MOST`` entries."""
    if entries > MOST:
        raise InputError(f"a constant of {entries} entries, which is damage or far beyond a deployed net")
