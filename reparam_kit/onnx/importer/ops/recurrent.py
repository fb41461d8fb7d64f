"""LSTM, GRU and RNN, through time in one direction, the other, or both. Their weights keep the layout of the file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from reparam_kit.errors import InputError, UnsupportedError
from reparam_kit.onnx.importer.batch import Function, Images, Planned, images_in, place, rule
from reparam_kit.onnx.importer.example import example
from reparam_kit.onnx.importer.op import Op
from reparam_kit.onnx.importer.registry import operator
from reparam_kit.onnx.importer.values import Value

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "HardSigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softsign": torch.nn.functional.softsign,
    "Tanh": torch.tanh,
}
_USUAL = {"GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh"), "RNN": ("Tanh",)}
# Whether each direction goes backwards.
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
# The gates of torch in the order of torch, by their places in the file; cells that torch has.
_GATES = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1), "RNN": (0,)}
_CELLS = {"GRU": "gru", "LSTM": "lstm", "RNN": "rnn_tanh"}
# What a node gives: the output of every step, and the last state; of an LSTM also its last cell.
_EVERY, _STATE, _CELL = range(3)


class Settings(NamedTuple):
    """How the gates of a layer work: plain values, as they are written into a graph.

    ``activations`` are those of one direction after the other, ``resets_late`` says that a GRU resets what its weights
    make of the state (and not the state), ``coupled`` that an LSTM forgets as much as it does not take in.
    """

    kind: str
    backwards: tuple[bool, ...]
    activations: tuple[str, ...]
    resets_late: bool
    coupled: bool

    @property
    def usual(self) -> bool:
        """Whether torch has such a layer."""
        early = self.kind == "GRU" and not self.resets_late
        return not early and not self.coupled and self.activations == _USUAL[self.kind] * len(self.backwards)


@operator("DynamicQuantizeLSTM", domain="com.microsoft")
def dynamic_quantize_lstm(op: Op) -> Value:
    """Refuse it: quantisers write it in the place of an LSTM."""
    raise UnsupportedError(
        "an LSTM of integers, whose state is quantised anew at each step, is not imitated; give the quantiser "
        "nodes_to_exclude or op_types_to_quantize without LSTM, which leaves it in floating point"
    )


@operator("GRU", "LSTM", "RNN", since=7)
def recurrent(op: Op) -> tuple[Value | None, ...]:
    """Take x [T, N, in], weights [directions, gates, in] and [directions, gates, hidden], biases [directions, 2 gates].

    Then the numbers of steps [N], and the first state and cell [directions, N, hidden]. With ``layout`` N comes first.
    """
    settings, late = _settings(op), op.attr("layout") == 1
    if op.get(7) is not None:
        raise UnsupportedError("peepholes (input 7) are not supported; export the layer without")
    steps, values = op.get(4), [op[0], op.get(5), op.get(6)]
    if late:
        values = [None if value is None else op.call(torch.permute, value, (1, 0, 2)) for value in values]
    x, *states = values
    args = (x, op.parameter(1), op.parameter(2), op.parameter(3), steps, *states, *settings)
    every = op.call(recurrence, *args, _EVERY)
    state = (
        op.call(last_state, every, settings.backwards)
        if steps is None
        else op.call(recurrence, *args, _STATE)
    )
    results = [every, state, *([op.call(recurrence, *args, _CELL)] if settings.kind == "LSTM" else [])]
    if late:
        results = [
            op.call(torch.permute, v, o)
            for v, o in zip(results, ((2, 0, 1, 3), (1, 0, 2), (1, 0, 2)), strict=False)
        ]
    return tuple(results)


def _settings(op: Op) -> Settings:
    direction = op.attr("direction")
    if direction not in _DIRECTIONS:
        raise InputError(f"direction is {direction!r}, not one of {', '.join(_DIRECTIONS)}")
    for name in ("activation_alpha", "activation_beta", "clip"):
        if op.attr(name):
            raise UnsupportedError(f"{name} is not supported")
    backwards = _DIRECTIONS[direction]
    _check_sizes(op, len(backwards))
    late = op.type == "GRU" and op.flag("linear_before_reset")
    coupled = op.type == "LSTM" and op.flag("input_forget")
    return Settings(op.type, backwards, _activations(op, len(backwards)), late, coupled)


def _activations(op: Op, directions: int) -> tuple[str, ...]:
    names = {name.lower(): name for name in _ACTIVATIONS}
    usual = _USUAL[op.type] * directions
    given = [text.decode() for text in op.attr("activations") or ()] or usual
    for text in given:
        if text.lower() not in names:
            raise UnsupportedError(
                f"the activation {text} is not supported; these are: {', '.join(_ACTIVATIONS)}"
            )
    if len(given) < len(usual):
        raise InputError(f"{len(given)} activations are given, and {len(usual)} needed")
    return tuple(
        names[text.lower()] for text in given[: len(usual)]
    )  # one direction has two by default in an RNN


def _check_sizes(op: Op, directions: int) -> None:
    shapes, hidden = [op.shape(i) if i < len(op) else None for i in (1, 2, 3)], op.attr("hidden_size")
    if hidden is None:
        hidden = shapes[1][-1] if shapes[1] else None
    rows = hidden and len(_GATES[op.type]) * hidden
    for i, (shape, wanted) in enumerate(
        zip(shapes, ((rows, None), (rows, hidden), (rows and 2 * rows,)), strict=True), start=1
    ):
        fits = shape is None or (len(shape) == len(wanted) + 1 and shape[0] in (directions, None))
        if shape is not None and not (
            fits and all(w in (n, None) for n, w in zip(shape[1:], wanted, strict=True))
        ):
            raise InputError(
                f"input {i} has the shape {list(shape)}, which is not that of {directions} x {hidden} hidden units"
            )


def recurrence(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    steps: Tensor | None,
    state: Tensor | None,
    cell: Tensor | None,
    kind: str,
    backwards: tuple[bool, ...],
    activations: tuple[str, ...],
    resets_late: bool,
    coupled: bool,
    which: int,
) -> Tensor:
    """Return every output [T, directions, N, hidden], the last state, or the last cell [directions, N, hidden]."""
    settings = Settings(kind, backwards, activations, resets_late, coupled)
    n, hidden, count = x.shape[1], r.shape[2], len(_USUAL[kind])
    found = []
    for d, back in enumerate(backwards):
        first = [x.new_zeros(n, hidden) if s is None else s[d].expand(n, hidden) for s in (state, cell)]
        bias = x.new_zeros(2 * w.shape[1]) if b is None else b[d]
        functions = [_ACTIVATIONS[name] for name in activations[d * count :][:count]]
        one = _Direction(w[d], r[d], bias, first, back, functions, settings)
        usual = settings.usual and steps is None
        found.append(_by_torch(x, one) if usual else _step_by_step(x, one, steps))
    return torch.stack([parts[which] for parts in found], 1 if which == _EVERY else 0)


class _Direction(NamedTuple):
    """One direction of a layer: weights of input and state, biases, state and cell before it, and how it runs."""

    w: Tensor
    r: Tensor
    b: Tensor
    first: list[Tensor]
    back: bool
    functions: list[Callable[[Tensor], Tensor]]
    settings: Settings


def _by_torch(x: Tensor, one: _Direction) -> tuple[Tensor, ...]:
    kind = one.settings.kind
    order = _GATES[kind]
    parts = (one.w, one.r, *one.b.chunk(2))
    arranged = [torch.cat([part.chunk(len(order))[gate] for gate in order]) for part in parts]
    start = [s[None] for s in one.first]
    run = getattr(torch, _CELLS[kind])
    # In train mode, without which cuDNN has no gradient; there is no dropout.
    y, *last = run(
        x.flip(0) if one.back else x,
        start if kind == "LSTM" else start[0],
        arranged,
        True,
        1,
        0.0,
        True,
        False,
        False,
    )
    return y.flip(0) if one.back else y, *(s[0] for s in last)


def _step_by_step(x: Tensor, one: _Direction, steps: Tensor | None) -> tuple[Tensor, ...]:
    of_x, of_state = one.b.chunk(2)
    inputs = x @ one.w.T + of_x
    state, cell = one.first
    one = one._replace(b=of_state)
    outputs: list[Any] = [None] * len(x)
    for t in reversed(range(len(x))) if one.back else range(len(x)):
        new, new_cell = _CELL_OF[one.settings.kind](inputs[t], state, cell, one)
        going = torch.ones_like(new, dtype=torch.bool) if steps is None else (steps > t)[:, None]
        state, cell = torch.where(going, new, state), torch.where(going, new_cell, cell)
        outputs[t] = torch.where(going, new, 0)
    return torch.stack(outputs), state, cell


def _gru(inputs: Tensor, state: Tensor, cell: Tensor, one: _Direction) -> tuple[Tensor, Tensor]:
    f, g = one.functions
    (xz, xr, xh), (rz, rr, rh), (bz, br, bh) = inputs.chunk(3, 1), one.r.chunk(3), one.b.chunk(3)
    update, reset = f(xz + state @ rz.T + bz), f(xr + state @ rr.T + br)
    seen = reset * (state @ rh.T + bh) if one.settings.resets_late else (reset * state) @ rh.T + bh
    return (1 - update) * g(xh + seen) + update * state, cell


def _lstm(inputs: Tensor, state: Tensor, cell: Tensor, one: _Direction) -> tuple[Tensor, Tensor]:
    f, g, h = one.functions
    take, give, forget, new = (inputs + state @ one.r.T + one.b).chunk(4, 1)
    taken = f(take)
    cell = (1 - taken if one.settings.coupled else f(forget)) * cell + taken * g(new)
    return f(give) * h(cell), cell


def _rnn(inputs: Tensor, state: Tensor, cell: Tensor, one: _Direction) -> tuple[Tensor, Tensor]:
    return one.functions[0](inputs + state @ one.r.T + one.b), cell


_CELL_OF = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}


def last_state(y: Tensor, backwards: tuple[bool, ...]) -> Tensor:
    """Return the state [directions, N, hidden] after all steps of ``y`` [T, directions, N, hidden]."""
    return torch.stack([y[0 if back else -1, d] for d, back in enumerate(backwards)])


def _sequences(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    """To each sequence alone: [T, N, in], numbers of steps [N], states [directions, N, hidden]."""
    x, w, r, b, steps, *states = args[:7]
    if images_in((w, r, b)) or steps is not None:
        return None
    for state in states:  # one that is the same for all images is that of each only if it is of one sequence
        if isinstance(state, fx.Node) and place(state) is None and example(state).shape[1] != 1:
            return None
    held = [node if node is None or place(node) is None else images.at(node, 1) for node in (x, *states)]
    if place(x) is None:
        return None
    return function, (held[0], w, r, b, steps, *held[1:], *args[7:]), 2 if args[-1] == _EVERY else 1


def _states(images: Images, function: Function, args: tuple[Any, ...], result: Any) -> Planned | None:
    return function, (images.at(args[0], 2), *args[1:]), 1


rule(_sequences, recurrence)
rule(_states, last_state)
