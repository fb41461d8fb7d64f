"""Inputs to try a file on: noise of the types that it takes, and of sizes at which it runs.

A size that a file leaves open is found in this order: what the caller says, what the other file with the same inputs
fixes, what the weights ask that the input meets first, and what is found by trying.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, product
from math import prod
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from reparam_kit.errors import InputError, suggestion
from reparam_kit.onnx.demands import demands
from reparam_kit.onnx.run import TYPES, Session

# Tried where nothing fixes them: images, features and samples of sound that nets take, the usual ones first.
_SIZES = (64, 112, 224, 128, 160, 96, 32, 48, 256, 320, 512, 640, 16_000, 1_000, 28, 80, 1)
_CHANNELS = (3, 1)
_LARGEST = 2**22  # entries of an input that is only tried
_BELOW = (256, 2, 1)  # tried for integers of which nothing says how large they may be
_BATCH = "<batch>"  # what a free first dimension is called here, whatever the file calls it
_IMAGE = "NCHW"  # dimensions of an input of which none are declared

Shapes: TypeAlias = Mapping[str, Sequence[int]]


class _Entry(NamedTuple):
    """An input, what its integers have to be below, and its sizes: a free one has a name, and is as large as others of
    that name.
    """

    name: str
    dtype: torch.dtype
    sizes: Sequence[int | str]
    below: int | None


def noise(
    sessions: Sequence[Session], batches: Sequence[int], shapes: Shapes | None = None
) -> list[list[Tensor]]:
    """Return inputs for all ``sessions``, on which the first of them runs; the same ones at each call.

    A list for each number of images in ``batches`` that the files take, and one list where they fix it. Numbers are
    standard normal, bytes spread as pictures have them, other integers from 0 as far up as they may go.

    Raises:
        InputError: the sessions take different inputs, or one of a type that there is no noise of; ``shapes`` do not
            fit; or the first runs at none of the sizes that were tried.
    """
    entries = _entries(sessions, shapes or {})
    free = any(_BATCH in entry.sizes for entry in entries)
    choices = list(_choices(entries))
    errors = []
    for sizes, below in choices:
        taken = []
        for batch in batches if free else batches[:1]:
            inputs = _inputs(entries, {_BATCH: batch, **sizes}, below)
            if len(choices) == 1 and not free:
                return [inputs]  # nothing is to be found out
            try:
                sessions[0](inputs)
            except InputError as error:
                errors.append(error)
            else:
                taken.append(inputs)
        if taken:
            return taken
    others = f"; nor at {len(choices) - 1} other choices of what it leaves open: say its sizes (--shape)"
    raise InputError(f"{errors[0]}{others if choices[1:] else ''}")


def _entries(sessions: Sequence[Session], shapes: Shapes) -> list[_Entry]:
    """Return what is known of the inputs of all ``sessions``."""
    signatures = {tuple((entry.type, len(entry.shape)) for entry in session.inputs) for session in sessions}
    if len(signatures) > 1:
        raise InputError("the two models take different inputs")
    entries = [_entry(sessions, number, shapes) for number in range(len(sessions[0].inputs))]
    said: dict[int | str, int] = {}
    for name, shape in shapes.items():
        said |= _said(entries, name, shape)
    return [_settled(entry, said, sessions[0]) for entry in entries]


def _entry(sessions: Sequence[Session], number: int, shapes: Shapes) -> _Entry:
    """Return what the files declare of an input."""
    name, kind = sessions[0].inputs[number].name, sessions[0].inputs[number].type
    if kind not in TYPES:
        raise InputError(f"no noise is made of a {kind}, which input {name!r} is: give inputs to run it on")
    declared = [session.inputs[number].shape for session in sessions]
    info = next((info for info in sessions[0].graph.input if info.name == name), None)
    if info is not None and not info.type.tensor_type.HasField("shape"):
        declared = [[None] * len(shapes.get(name, _IMAGE))]
    sizes: list[int | str] = []
    for axis, given in enumerate(zip(*declared, strict=True)):
        fixed = next((size for size in given if isinstance(size, int)), None)
        sizes.append(fixed if fixed is not None else _BATCH if axis == 0 else given[0] or f"{name}.{axis}")
    return _Entry(name, TYPES[kind], sizes, None)


def _said(entries: Sequence[_Entry], name: str, shape: Sequence[int]) -> dict[int | str, int]:
    """Return what the names in the sizes of an input stand for, where the caller says its shape."""
    entry = next((entry for entry in entries if entry.name == name), None)
    if entry is None:
        names = [entry.name for entry in entries]
        raise InputError(
            f"a shape is given for {name!r}, which is no input; {suggestion(name, names, 'inputs')}"
        )
    if len(shape) != len(entry.sizes) or any(
        isinstance(size, int) and size != asked for size, asked in zip(entry.sizes, shape, strict=True)
    ):
        declared = ["free" if isinstance(size, str) else size for size in entry.sizes]
        raise InputError(
            f"input {name!r} has sizes ({', '.join(map(str, declared))}), which {list(shape)} do not fit"
        )
    return dict(zip(entry.sizes, shape, strict=True))


def _settled(entry: _Entry, said: Mapping[int | str, int], session: Session) -> _Entry:
    """Return the input with the sizes that the caller says, and else those that the weights ask for."""
    asked = demands(session.graph, entry.name, len(entry.sizes))
    sizes = [said.get(size, size) for size in entry.sizes]
    known = [asked.sizes.get(i, size) if isinstance(size, str) else size for i, size in enumerate(sizes)]
    return entry._replace(sizes=known, below=asked.below)


def _choices(entries: Sequence[_Entry]) -> Iterator[tuple[dict[str, int], int]]:
    """Yield what the free sizes could be, and what integers could have to be below."""
    names = dict.fromkeys(size for entry in entries for size in entry.sizes if size != _BATCH)
    free = [name for name in names if isinstance(name, str)]
    channels = [
        entry.sizes[axis]
        for entry in entries
        for axis in (1, -1)
        if len(entry.sizes) > 2 and entry.sizes[axis] in free
    ]
    plain = [dict.fromkeys(free, size) for size in (_SIZES if free else (1,))]
    choices = plain + [
        {**sizes, str(channel): count} for channel in channels for count in _CHANNELS for sizes in plain
    ]
    if any(list(entry.sizes) == [_BATCH] for entry in entries):  # which may be its samples
        choices += [{**sizes, _BATCH: size} for sizes, size in zip(cycle(plain), _SIZES, strict=False)]
    open_ = any(_is_index(entry.dtype) and entry.below is None for entry in entries)
    for below, sizes in product(_BELOW if open_ else _BELOW[:1], choices):
        largest = max((prod(_shape(entry, {_BATCH: 1, **sizes})) for entry in entries), default=1)
        if len(choices) == 1 or largest <= _LARGEST:
            yield sizes, below


def _inputs(entries: Sequence[_Entry], sizes: Mapping[str, int], below: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [_noise(_shape(entry, sizes), entry, below, generator) for entry in entries]


def _shape(entry: _Entry, sizes: Mapping[str, int]) -> list[int]:
    return [sizes[size] if isinstance(size, str) else size for size in entry.sizes]


def _noise(shape: list[int], entry: _Entry, below: int, generator: torch.Generator) -> Tensor:
    if _is_index(entry.dtype) or entry.below is not None:
        end = min(entry.below or below, _largest(entry.dtype) + 1)
        return torch.randint(0, end, shape, generator=generator).to(entry.dtype)
    values = torch.randn(shape, generator=generator)
    if entry.dtype.is_floating_point:
        return values.to(entry.dtype)
    middle, ends = (0, (-128, 127)) if entry.dtype is torch.int8 else (128, (0, 255))
    return (values * 50 + middle).clamp(*ends).to(entry.dtype)


def _largest(dtype: torch.dtype) -> int:
    """Return the largest index that the type can hold: also one of floating point, which a Cast may make an index."""
    if dtype.is_floating_point:
        return int(1 / torch.finfo(dtype).eps)
    return 1 if dtype is torch.bool else torch.iinfo(dtype).max


def _is_index(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and dtype not in (torch.uint8, torch.int8)
