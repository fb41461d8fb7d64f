"""What the passes of a model have in common on CUDA, which is recorded once several had it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn

from reparam_kit.algebra.composition import Parts
from reparam_kit.algebra.members import Member, State, groups_of, state_of
from reparam_kit.algebra.replay import Replay, replayed
from reparam_kit.errors import first_line

LOGGER = logging.getLogger(__name__)

RECORDED_ON = frozenset({"cuda"})
"""Kinds of devices on which launches cost more than the work of what composes kernels."""

_RECORDED_AT = 3  # passes of the same tensors: a single look at a model is not worth it


class Earlier:
    """The layers of a model, and what they owned when a pass first looked at them.

    It knows the layers weakly: one may know the model, which would live on with its place in ``_EARLIER``.
    """

    def __init__(self, groups: Sequence[Sequence[Member]]) -> None:
        self._parts = [[member.parts for member in group] for group in groups]
        self._layers = [
            (ref(m.layer), m.parts, m.tensors, _lasting(m.state)) for group in groups for m in group
        ]
        self._passes = 1
        self._replay: Replay | None = None

    def members(self) -> list[Member] | None:
        """Return the layers as they are now; None: one owns other tensors."""
        found = []
        for layer_of, parts, tensors, lasting in self._layers:
            if (layer := layer_of()) is None or _lasting(now := state_of(layer.owned())) != lasting:
                return None
            found.append(Member(layer, parts, tensors, now))
        return found

    def replay(self) -> Replay | None:
        """Return what was recorded; None: nothing was, or for another stream of work than this one."""
        self._passes += 1
        if self._passes == _RECORDED_AT:
            self._replay = _recorded(self._parts)
        return self._replay if self._replay is not None and self._replay.recorder.fits() else None


_EARLIER: WeakKeyDictionary[nn.Module, Earlier] = WeakKeyDictionary()


def replayed_members(model: nn.Module) -> tuple[list[Member], Sequence[Tensor]]:
    """Return the layers of ``model`` and their kernels, of what was recorded; none, where nothing is."""
    earlier = _EARLIER.get(model)
    members = None if earlier is None else earlier.members()
    if earlier is None or members is None:
        _EARLIER[model] = Earlier(groups_of(model))
        return [], ()
    replay = earlier.replay()
    return ([], ()) if replay is None else (members, replayed(replay))


def _lasting(state: State) -> list[tuple[int, int, bool]]:
    return [values[:-1] for values in state]


def _recorded(groups: Sequence[Sequence[Parts]]) -> Replay | None:
    parts = [parts for group in groups for parts in group]
    kinds = {(layout.dtype, layout.device) for each in parts for layout in each.form.layouts}
    if len(kinds) != 1 or not all(each.form.trains for each in parts):
        return None
    try:
        return Replay(groups)
    except RuntimeError as error:
        LOGGER.warning(
            "what composes the kernels takes longer, as it was not recorded: %s", first_line(error)
        )
        return None
