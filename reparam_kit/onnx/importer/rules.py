"""How functions and layers treat the images of a batch that is freed: where these may lie, and where they come out.

Each rule keeps the images where they are, if what the function does to an entry there depends on no other entry there.
Else it puts them in front of all dimensions, and axes count from the last, so that the function does to each image what
it does in the file. It gives ``None`` where neither is sure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from reparam_kit.onnx.importer.batch import (
    FRONT,
    Function,
    Images,
    KeptBatchError,
    Planned,
    Rule,
    front,
    images_in,
    place,
)
from reparam_kit.onnx.importer.example import example
from reparam_kit.onnx.importer.values import leaves

# Layers that do to each entry of the first dimension the same, whatever the others hold.
_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)
# Those that do to each entry the same.
_EACH = (
    *(
        nn.CELU,
        nn.ELU,
        nn.GELU,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.Hardtanh,
        nn.LeakyReLU,
        nn.Mish,
        nn.ReLU,
        nn.ReLU6,
    ),
    *(nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh, nn.Dropout, nn.Identity),
)


def elementwise(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    """Element by element, with broadcasting: what meets the images must be the same for each, or one of theirs."""
    if not isinstance(result, Tensor):
        return None
    tensors = [
        leaf for leaf in leaves(args) if isinstance(leaf, fx.Node) and isinstance(example(leaf), Tensor)
    ]
    held = [node for node in tensors if place(node) is not None]
    from_last = {example(node).dim() - (place(node) or 0) if example(node).dim() else 0 for node in held}
    sizes = {example(node).shape[place(node)] for node in held if example(node).dim()}
    if len(from_last) == len(sizes) == 1:
        [at] = from_last
        others = (example(node).shape for node in tensors if place(node) is None)
        if all(len(shape) < at or shape[-at] == 1 for shape in others):
            return function, args, result.dim() - at
    return function, front(images, args, result.dim()), FRONT


def along(at: int) -> Rule:
    """Along axes, which are argument ``at``; each may become several dimensions, or none."""

    def plan(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
        axes = args[at]
        parts = list(args[0]) if isinstance(args[0], (list, tuple)) else [args[0]]
        held = images_in(args[0])
        if result is None or isinstance(axes, fx.Node) or axes is None or images_in(args[1:]):
            return None
        rank = example(held[0]).dim()
        numbers = [a % rank for a in ((axes,) if isinstance(axes, int) else axes)] if rank else []
        [where, *others] = {place(node) for node in held}
        assert where is not None
        stays = not others and where != FRONT and where not in numbers
        new = where if stays else FRONT
        if len(parts) > 1:
            sizes = {example(node).shape[where] for node in parts} if stays else {1}
            if len(sizes) > 1:
                new, stays = FRONT, False
            parts = [
                images.at(node, new) if place(node) is not None else images.repeated(node, new)
                for node in parts
            ]
            args = (parts, *args[1:])
        else:
            moved = images.at(held[0], new)
            args = ([moved] if isinstance(args[0], (list, tuple)) else moved, *args[1:])
        if stays:
            one = result if isinstance(result, Tensor) else result[0]
            grows = (one.dim() - rank) // len(numbers) if numbers else 0
            return function, args, where + grows * sum(a < where for a in numbers)
        if not rank:
            return None
        negative = [a - rank for a in numbers]
        return (
            function,
            (*args[:at], negative[0] if isinstance(axes, int) else tuple(negative), *args[at + 1 :]),
            FRONT,
        )

    return plan


def beside(at: int, default: int = 1) -> Rule:
    """Element by element, with settings that are the same for all images and may differ along the axis at ``at``."""

    def plan(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
        rank = example(args[0]).dim()
        if images_in(args[1:]):
            return None
        settings = [example(leaf) for leaf in args[1:3] if isinstance(leaf, fx.Node)]
        if all(setting.numel() == 1 for setting in settings):
            return function, args, place(args[0])
        axis = default if args[at] is None else args[at] % rank
        where = place(args[0])
        if where == axis:
            if rank == 1:
                return None
            where = 0 if axis else 1
        assert where is not None
        return function, (images.at(args[0], where), *args[1:]), where

    return plan


def first(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    """To each entry of the first dimension of the first argument alone."""
    if images_in(args[1:]):
        return None
    return function, (images.at(args[0], 0), *args[1:]), 0


def last(count: Callable[..., int]) -> Rule:
    """To the last dimensions of the first argument alone, of which ``count`` tells the number from the others."""

    def plan(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
        if images_in(args[1:]):
            return None
        where = _before_last(args[0], count(*args[1:]))
        return function, (images.at(args[0], where), *args[1:]), where

    return plan


def permuted(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    """Dimensions in another order."""
    x, order = args
    where = place(x)
    return (function, args, where if where == FRONT else [d % len(order) for d in order].index(where))


def extended(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    """Repeat x along some of its dimensions, or along new ones before them."""
    if result is None or images_in(args[1:]):
        return None
    x, where = args[0], place(args[0])
    rank, shape = result.dim(), example(args[0]).shape
    at = len(shape) - (where or 0)
    if where != FRONT and result.shape[rank - at] == shape[where]:
        return function, args, rank - at
    return function, (images.at(x, FRONT, rank), *args[1:]), FRONT


def product_of_two(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    """Return a matrix product, of many matrices where one side has more than two dimensions."""
    a, b = args
    ranks = example(a).dim(), example(b).dim()
    if min(ranks) < 2 or result is None:
        return None
    by_row = place(b) is None and place(a) != ranks[0] - 1
    by_column = place(a) is None and place(b) != ranks[1] - 2
    if (by_row and place(a) == ranks[0] - 2) or (by_column and place(b) == ranks[1] - 1):
        return function, args, result.dim() - (2 if by_row else 1)
    if place(a) is not None and place(b) is not None:
        known = [
            (rank - (place(x) or 0), example(x).shape[place(x)]) for rank, x in zip(ranks, args, strict=True)
        ]
        if known[0] == known[1] and known[0][0] > 2:
            return function, args, result.dim() - known[0][0]
    return function, front(images, args, result.dim()), FRONT


def matrix_product_and_sum(
    images: Images, function: Function, args: tuple[Any, ...], result: Any
) -> Planned | None:
    """Take a [M, K], b [K, N], c, scales, whether a and b are transposed: the rows of a are apart."""
    _, b, c, _, flips = args
    tall = c is not None and example(c).dim() > 1 and example(c).shape[0] > 1
    if place(b) is not None or (c is not None and place(c) is not None) or flips[0] or tall:
        return None
    return first(images, function, args, result)


def picked(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    """Return one of several tensors."""
    return None if images_in(args[1:]) else (function, args, place(args[0]))


def layer(images: Images, module: nn.Module, inputs: tuple[fx.Node, ...]) -> tuple[tuple[fx.Node, ...], int]:
    """Return the inputs of a layer with images where it keeps them apart, and where they come out.

    Raises :class:`KeptBatchError` for a layer that is not known.
    """
    x, *others = inputs
    rank, where = example(x).dim(), place(x)
    if images_in(others) or others or where is None:
        raise KeptBatchError(f"what {type(module).__name__} does to each image is not known")
    if isinstance(module, (nn.Softmax, nn.LogSoftmax)):
        assert module.dim is not None
        module.dim = module.dim % rank - rank
        where = FRONT if where == module.dim + rank else where
    elif isinstance(module, nn.PReLU):
        where = where if module.num_parameters == 1 else 0
    elif isinstance(module, nn.Linear):
        where = _before_last(x, 1)
    elif isinstance(module, nn.LayerNorm):
        where = _before_last(x, len(module.normalized_shape))
    elif isinstance(module, _FIRST):
        where = 0
    elif not isinstance(module, _EACH):
        raise KeptBatchError(f"what {type(module).__name__} does to each image is not known")
    return (images.at(x, where),), where


def _before_last(x: fx.Node, count: int) -> int:
    where = place(x)
    assert where is not None
    return where if where < example(x).dim() - count else FRONT
