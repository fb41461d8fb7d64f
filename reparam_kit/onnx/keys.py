"""Which stored tensor of an ONNX file is meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Place(NamedTuple):
    """A sub-graph or a function of the file: how it is called, and what tells it from another one called so."""

    name: str
    identity: str


@dataclass(frozen=True)
class TensorKey:
    """A tensor that a file stores: an initializer of that name, or the output of that name of a ``Constant`` node.

    ``scope`` says in which sub-graphs or function, the innermost first; it is empty for the main graph.

    >>> print(TensorKey("initializer", "w"))
    initializer 'w'
    """

    kind: Literal["initializer", "constant"]
    name: str
    scope: tuple[Place, ...] = ()

    def __str__(self) -> str:
        return " in ".join([f"{self.kind} {self.name!r}", *(place.name for place in self.scope)])
