"""Freeing a batch that the file fixes: which dimension of a value holds the images, and what keeps them apart.

A file with a fixed batch says what it does to that many images, and no more. The imported model takes any number of
them and does to each what the file does, whatever the operators are. So every value is known by the shape that it has
in the file, and by its *place*: the dimension along which the images lie, one after the other, so that it is
longer there than in the file. A value that is the same for all images has no place.

What becomes of the place is a rule of each function (:func:`rule`), which follows from the function alone and from no
size that happens to be equal to another. Where a function works across the images, they are put into a further
dimension before all others (``FRONT``) first. A function without a rule is called for one image after the other.

A batch of k images is to such a function one image. Where all functions keep places, k need not divide the number of
rows N: a value that has n entries at its place in the file has n * N / k, and the first rows meet no later ones.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from importlib import import_module
from math import prod
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from reparam_kit.errors import InputError, UnsupportedError
from reparam_kit.onnx.importer.example import example, remember
from reparam_kit.onnx.importer.values import leaves

FRONT = -1
"""The place of images that lie along a dimension which the file's value does not have."""

Function: TypeAlias = "Callable[..., Any]"
Planned: TypeAlias = "tuple[Function, tuple[Any, ...], int | None]"
Rule: TypeAlias = "Callable[[Images, Function, tuple[Any, ...], Any], Planned | None]"

_RULES: dict[Function, Rule] = {}
_PLACE = "place"


class KeptBatchError(UnsupportedError):
    """Something that cannot be done for each image, so that the batch has to stay as the file has it."""


def rule(kind: Rule, *functions: Function) -> None:
    """Say how ``functions`` treat the images: ``kind`` is one of the rules in :mod:`.rules`."""
    _RULES.update(dict.fromkeys(functions, kind))


def place(node: fx.Node) -> int | None:
    """Return the dimension of the file's value along which ``node`` holds the images; ``None`` where it holds none."""
    found: int | None = node.meta.get(_PLACE)
    return found


class Images:
    """Adds calls to a graph that do for each image what the file does for its batch.

    ``batch`` is the size that the file fixes; ``free_sizes`` says that sizes of the examples are made up.
    ``one_by_one`` counts the calls that are made for one image after the other.
    """

    def __init__(self, graph: fx.Graph, batch: int, free_sizes: bool) -> None:
        self.free_sizes = free_sizes
        self.one_by_one = 0
        self._graph = graph
        self.batch = batch
        self._first: fx.Node | None = None
        self._count: fx.Node | None = None
        self._share: fx.Node | None = None

    def hold(self, node: fx.Node) -> None:
        """Note that ``node`` is an input whose first dimension is the batch."""
        self._first = self._first or self.held(node, 0)
        self.held(node, 0)

    def held(self, node: fx.Node, where: int) -> fx.Node:
        """Return ``node``, with its images at ``where``."""
        node.meta[_PLACE] = where
        return node

    @property
    def count(self) -> fx.Node:
        """How many times the file's batch there is: whole, for what has to take one batch from the other."""
        if self._count is None:
            assert self._first is not None
            self._count = self._emit(counted, (self._first, self.batch), None, None)
        return self._count

    @property
    def share(self) -> fx.Node:
        """How many times the file's batch there is, for what only counts entries at a place."""
        if self._share is None:
            assert self._first is not None
            self._share = self._emit(share_of, (self._first, self.batch), None, None)
        return self._share

    def call(self, function: Function, args: tuple[Any, ...], result: Any) -> fx.Node:
        """Return ``function(*args)``, of which ``result`` is the example."""
        planned = _RULES.get(function, one_by_one)(self, function, args, result)
        if planned is None:
            planned = one_by_one(self, function, args, result)
            assert planned is not None
        return self.settled(self._emit(*planned[:2], planned[2], result))

    def settled(self, node: fx.Node) -> fx.Node:
        """Return ``node`` with its images along a dimension that the file's value has, if it has any."""
        known = example(node)
        inside = isinstance(known, Tensor) and known.dim()
        return self.at(node, 0) if place(node) == FRONT and inside else node

    def at(self, node: fx.Node, new: int, rank: int | None = None) -> fx.Node:
        """Return a value with its images at ``new``; in front of all, it may be given ``rank`` dimensions, first ones
        of 1.

        ``0`` leaves a value whose images lie along another of its dimensions as it is only where that is 0.
        """
        old, known = place(node), example(node)
        missing = 0 if rank is None else rank - known.dim()
        if old == new and not missing:
            return node
        return self._emit(moved, (node, self.count, old, new, missing), new, known)

    def repeated(self, node: fx.Node, new: int) -> fx.Node:
        """Return a value that is the same for all images, once for each."""
        return self._emit(repeated, (node, self.count, new), new, example(node))

    def output(self, node: fx.Node) -> fx.Node:
        """Return a result: put together along the dimension of the batch, where it has come through, or else
        the first.
        """
        where, known = place(node), example(node)
        if where is None or not isinstance(known, Tensor):
            return node
        if where == FRONT:
            return self._emit(without_single_dimension, (node,), FRONT, known)
        return node if known.shape[where] == self.batch else self.at(node, 0)

    def _emit(self, function: Function, args: tuple[Any, ...], where: int | None, known: Any) -> fx.Node:
        node = self._graph.call_function(function, args)
        node.meta["is_wrapped"] = is_own(function)
        node.meta[_PLACE] = where
        return remember(node, known)


def images_in(args: Any) -> list[fx.Node]:
    """Those of the arguments that hold images."""
    return [leaf for leaf in leaves(args) if isinstance(leaf, fx.Node) and place(leaf) is not None]


def front(images: Images, args: Any, rank: int | None = None) -> Any:
    """Return ``args`` with the images of each in front of all its dimensions, of which there are then ``rank``."""
    return map_aggregate(
        args,
        lambda leaf: (
            images.at(leaf, FRONT, rank) if isinstance(leaf, fx.Node) and place(leaf) is not None else leaf
        ),
    )


def one_by_one(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    """Return one image after the other: right for any function, and slow."""
    name = _name_of(function)
    if result is None or _function_of(name) is not function:
        raise KeptBatchError(f"what it does to each image is not known ({name})")
    images.one_by_one += 1
    tensors = (a for a in leaves(args) if isinstance(a, fx.Node) and isinstance(example(a), Tensor))
    holding = tuple(place(a) is not None for a in tensors)
    return each_image, (name, images.count, holding, front(images, args)), FRONT


def is_own(function: Function) -> bool:
    """Return whether it is none of torch's or Python's: fx has not to trace into it, should someone trace the
    model again.
    """
    return isinstance(function, FunctionType) and not function.__module__.startswith("torch.")


def _name_of(function: Function) -> str:
    python = isinstance(function, FunctionType)
    return f"{function.__module__}:{function.__qualname__}" if python else f"torch:{function.__name__}"


@cache
def _function_of(name: str) -> Any:
    module, _, path = name.partition(":")
    return getattr(import_module(module), path, None)


def share_of(x: Tensor, batch: int) -> int | Fraction:
    """Return how many times ``batch`` rows ``x`` has."""
    return Fraction(int(x.shape[0]), batch) if x.shape[0] % batch else x.shape[0] // batch


def counted(x: Tensor, batch: int) -> int:
    """Count, by :func:`share_of`, whole batches."""
    return _entries(1, share_of(x, batch), batch)


def _entries(in_file: int, share: int | Fraction, batch: int) -> int:
    """Return the entries there are where the file has ``in_file``."""
    entries = in_file * share
    if not isinstance(entries, Fraction):
        return entries
    if entries.denominator > 1:
        raise InputError(
            f"the file mixes the rows of a batch and takes {batch} images at a time, and {share * batch} are given: "
            "export it for a batch of 1"
        )
    return entries.numerator


def moved(x: Tensor, count: int, old: int, new: int, missing: int) -> Tensor:
    """Return ``x`` with its ``count`` images at the dimension ``new``, with ``missing`` further dimensions of 1."""
    if old != FRONT:
        sizes = (count, x.shape[old] // count)
        x = x.reshape(*x.shape[:old], *sizes, *x.shape[old + 1 :]).movedim(old, 0)
    if missing:
        x = x.reshape(count, *[1] * missing, *x.shape[1:])
    return x if new == FRONT else x.movedim(0, new).flatten(new, new + 1)


def repeated(x: Tensor, count: int, new: int) -> Tensor:
    """Return ``x`` once for each of ``count`` images, at the dimension ``new``."""
    x = x.expand(count, *x.shape)
    return x if new == FRONT else x.movedim(0, new).flatten(new, new + 1)


def each_image(name: str, count: int, holding: tuple[bool, ...], args: tuple[Any, ...]) -> Any:
    """Return the function of that name for each image; those tensors of ``args`` that are ``holding`` some have them
    in front.
    """
    function = _function_of(name)

    def arguments(image: int) -> Any:
        flags = iter(holding)
        return map_aggregate(
            args, lambda leaf: leaf[image] if isinstance(leaf, Tensor) and next(flags) else leaf
        )

    results = [function(*arguments(image)) for image in range(count)]
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True))


def without_single_dimension(x: Tensor) -> Tensor:
    """Numbers ``[N]``, one of each image; a single one as the file gives it, without a dimension."""
    return x.reshape(()) if x.numel() == 1 else x


def rearranged(
    x: Tensor, share: int | Fraction, batch: int, old: int, new: int, name: str, args: tuple[Any, ...]
) -> Tensor:
    """Return ``x`` in the shape that the function of that name gives what the file has for one batch."""
    if share == 1 and FRONT not in (
        old,
        new,
    ):  # what the file has itself, and an exporter writes as the file does
        alone: Tensor = _function_of(name)(x, *args)
        return alone
    shape: list[Any] = list(x.shape) if old != FRONT else list(x.shape[1:])
    if old != FRONT:
        shape[old] //= share
    shape = list(_function_of(name)(torch.empty(shape, device="meta"), *args).shape)
    if new == FRONT:
        return x.reshape(_entries(1, share, batch))
    shape[new] = _entries(shape[new], share, batch)
    return x.reshape(shape)


def rearrangement(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    """Return the same numbers in the same order, in another shape.

    Where as much lies before the images in the new shape as in the old, they lie apart there as well. So they do at
    the first dimension of any shape, if they did in the old one: that is always so, and taken where sizes are made up.
    """
    x, *rest = args
    if images_in(rest) or not isinstance(result, Tensor):
        return None
    if not result.dim() or not example(x).dim():
        x, new = images.at(x, FRONT), 0 if result.dim() else FRONT
    else:
        same = _same_place(images, x, result)
        x, new = (images.at(x, 0), 0) if same is None else (x, same)
    return rearranged, (x, images.share, images.batch, place(x), new, _name_of(function), tuple(rest)), new


def _same_place(images: Images, x: fx.Node, result: Tensor) -> int | None:
    """Return the dimension of ``result`` with as much before it as the images of ``x`` have.

    It is of their size if it can be, or else one where each of them has as many entries.
    """
    where, old, new = place(x), example(x).shape, result.shape
    assert where is not None
    if images.free_sizes:
        return 0 if where == 0 else None
    fits = [dim for dim in range(len(new)) if prod(new[:dim]) == prod(old[:where])]
    alike = [dim for dim in fits if new[dim] == old[where]]
    apart = [dim for dim in fits if new[dim] % images.batch == 0]
    return next(iter(alike + apart + fits), None)
