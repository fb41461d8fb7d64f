"""The weights of a model among what a file holds: in dicts within dicts, under the names that wrappers give them.

A state_dict is taken for a model's where it has its names and shapes and no others; whatever else a checkpoint holds
is left. So nothing is guessed: where two parts fit, or none does, nothing is taken.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from reparam_kit.errors import InputError

LOGGER = logging.getLogger(__name__)

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_DEEPEST = 6  # dicts within dicts
_LISTED = 5  # names of each kind in a message
_COUNTED = "num_batches_tracked"  # which torch fills in where a file has none
_EXTRA = "_extra_state"

State = Mapping[str, Any]


@dataclass(frozen=True)
class _Part:
    """A part of a file: of the dict under the keys ``place``, what begins with ``prefix``.

    ``names`` are those behind the prefix, without those of wrappers, and as the file has them; ``known`` of them the
    model has too.
    """

    place: tuple[str, ...]
    state: State
    prefix: str
    names: dict[str, str]
    known: int

    def __str__(self) -> str:
        place = " in ".join(map(repr, reversed(self.place)))
        under = f"its names under {self.prefix.removesuffix('.')!r}" if self.prefix else ""
        return ", ".join(filter(None, (place, under))) or "the dict itself"

    def found(self, own: Mapping[str, str]) -> dict[str, Any]:
        """Return its tensors by the model's names, of those that the model has."""
        return {own[name]: self.state[written] for name, written in self.names.items() if name in own}


def fill(model: nn.Module, content: object, path: Path, name: str) -> None:
    """Give ``model`` its weights of ``content``, and log where they stood unless they are all that it holds.

    Args:
        model: what is filled.
        content: what the file holds: a state_dict, or dicts with one.
        path: of the file, for messages.
        name: of the model, for messages.

    Raises:
        InputError: no part of it fits the model, or several do.
    """
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state_dict")
    tensors = model.state_dict(keep_vars=True)
    own = _plain(tensors)
    parts = [part for place, state in _states(content) for part in _parts(place, state, own)]
    if not parts:
        holds = ", ".join(map(repr, islice(content, _LISTED))) or "nothing"
        raise InputError(f"{path} holds {holds} and no state_dict: save model.state_dict()")
    fitting = list(
        {(p.place, frozenset(p.names.values())): p for p in parts if _fits(p, own, tensors)}.values()
    )
    if len(fitting) > 1:
        raise InputError(
            f"{path} holds weights for {name} {len(fitting)} times: {'; '.join(map(str, fitting))}; save those alone "
            f"that are meant: torch.save(torch.load({str(path)!r}){_keys(fitting[0])}, 'weights.pt')"
        )
    part = fitting[0] if fitting else max(parts, key=lambda part: part.known)
    try:
        model.load_state_dict(_whole(part, own, tensors) if fitting else part.state)
    except (
        RuntimeError,
        AttributeError,
        TypeError,
        KeyError,
    ) as error:  # not as its hooks would have them either
        wrong = _differences(part, own, tensors) or " ".join(str(error).split())[:300]
        where = f" ({part})" if part.place or part.prefix else ""
        raise InputError(f"{path} does not fit {name}{where}: {wrong}") from None
    _tell(part, own, path)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module in ``DataParallel``, ``DistributedDataParallel`` or what ``torch.compile`` gives."""
    while True:
        parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        held = model._modules.get("module" if parallel else "_orig_mod")
        if held is None:
            return model
        model = held


def _states(
    content: Mapping[Any, Any], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], State]]:
    """Yield every dict with tensors by the keys under which it is, the outermost first; what else it holds is left."""
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    state = {key: value for key, value in named.items() if isinstance(value, Tensor) or key.endswith(_EXTRA)}
    if any(isinstance(value, Tensor) for value in state.values()):
        yield place, content if len(state) == len(content) else state
    for key, value in named.items():
        if isinstance(value, Mapping) and key not in state and len(place) < _DEEPEST:
            yield from _states(value, (*place, key))


def _parts(place: tuple[str, ...], state: State, own: Mapping[str, str]) -> Iterator[_Part]:
    """Yield the parts of a dict under each prefix behind which a name of the model stands, and under none: of its
    names as they are, where ``module.`` may tell the net from what is beside it, and without those of wrappers.
    """
    for given in ({name: name for name in state}, _plain(state)):
        known = Counter({"": 0})
        for key in given:
            starts = (0, *(i for i, character in enumerate(key, 1) if character == "."))
            known.update(key[:i] for i in starts if key[i:] in own)
        for prefix, count in known.items():
            names = {key[len(prefix) :]: written for key, written in given.items() if key.startswith(prefix)}
            yield _Part(place, state, prefix, names, count)


def _plain(names: State) -> dict[str, str]:
    """Return the names by what they are without those of wrappers; as they are, where that is not one to one."""
    plain = {".".join(part for part in name.split(".") if part not in _WRAPPERS): name for name in names}
    return plain if len(plain) == len(names) else {name: name for name in names}


def _fits(part: _Part, own: Mapping[str, str], tensors: State) -> bool:
    if part.known < len(part.names):
        return False
    found = part.found(own)
    there = {id(tensors[name]) for name in found}  # a tensor of several names may be in a file under one
    whole = all(id(value) in there or name.endswith(_COUNTED) for name, value in tensors.items())
    return whole and not _misshapen(found, tensors)


def _misshapen(found: State, tensors: State) -> list[str]:
    return [
        name
        for name, value in found.items()
        if isinstance(tensors[name], Tensor)
        and not is_lazy(tensors[name])
        and getattr(value, "shape", None) != tensors[name].shape
    ]


def _whole(part: _Part, own: Mapping[str, str], tensors: State) -> State:
    """Return a state_dict under every name of the model; the file's own, with its versions, where it is that."""
    if part.state.keys() == tensors.keys():
        return part.state
    found = part.found(own)
    known = {id(tensors[name]): value for name, value in found.items()}
    return {name: known[id(value)] for name, value in tensors.items() if id(value) in known} | found


def _differences(part: _Part, own: Mapping[str, str], tensors: State) -> str:
    found = part.found(own)
    there = {id(tensors[name]) for name in found}
    wrong = {
        "missing": [n for n, t in tensors.items() if id(t) not in there and not n.endswith(_COUNTED)],
        "unexpected": [written for name, written in part.names.items() if name not in own],
        "of another shape": [
            f"{name} {list(found[name].shape)}, in the model {list(tensors[name].shape)}"
            for name in _misshapen(found, tensors)
        ],
    }
    return "; ".join(f"{kind}: {_listed(names)}" for kind, names in wrong.items() if names)


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _keys(part: _Part) -> str:
    return "".join(f"[{key!r}]" for key in part.place)


def _tell(part: _Part, own: Mapping[str, str], path: Path) -> None:
    wrapped = [
        written for name, written in part.names.items() if part.prefix + own.get(name, name) != written
    ]
    without = f", without what a wrapper put before them ({wrapped[0]})" if wrapped else ""
    if part.place or part.prefix or wrapped:
        LOGGER.info("%s: the weights are %s%s", path, part, without)
