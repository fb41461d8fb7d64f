"""Readable, unique names for layers and buffers, made from the names in the file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain, count
from keyword import iskeyword
from unicodedata import normalize

from onnx import NodeProto
from torch import fx, nn

# A child of one of these names would hide an attribute of the module that holds it.
_RESERVED = {*dir(fx.GraphModule), *vars(nn.Module()), "graph", "meta", "self"}
_LONGEST = 500  # characters of a name that are kept,
_DEEPEST = 50  # and modules within modules that it may ask for: torch walks them by recursion


class Names:
    """Gives out dotted names, none of which is another's parent."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._parents: set[str] = set()
        self._numbers: dict[str, Iterator[int]] = defaultdict(lambda: count(1))

    def unique(self, wanted: str) -> str:
        """Return ``wanted`` as a path of module attributes, changed as little as makes it free."""
        dotted = ".".join(_atom(part) for part in wanted[:_LONGEST].split(".") if part) or "unnamed"
        flat = dotted.replace(".", "_")
        first = (dotted, flat) if dotted.count(".") < _DEEPEST else (flat,)
        numbered = (f"{flat}_{i}" for i in self._numbers[flat])
        name = next(name for name in chain(first, numbered) if self._is_free(name))
        self._taken.add(name)
        self._parents.update(_parents(name))
        return name

    def _is_free(self, name: str) -> bool:
        return not (
            name in self._taken or name in self._parents or any(p in self._taken for p in _parents(name))
        )


def layer_name(node: NodeProto, weight: str | None) -> str:
    """Return what to call the layer of ``node``, whose weight is the tensor ``weight`` of the file.

    ``conv1.weight`` -> ``conv1``, as its integers, ``conv1.weight_quantized``; else the node's scope:
    ``/layer1/conv/Conv`` -> ``layer1.conv``; a node without a name is called after its output. onnxruntime's quantiser
    makes a node ``Conv_quant`` of it.
    """
    stored = "" if weight is None else weight.removesuffix("_quantized")
    if stored.endswith(".weight"):
        return stored.removesuffix(".weight")
    kind = re.sub("^QLinear|^Q(?=Gemm)|Integer$", "", node.op_type)
    name = node.name or node.output[0]
    *scope, last = (name if kind == node.op_type else name.removesuffix("_quant")).strip("/").split("/")
    if scope and last.startswith(kind):
        return ".".join(scope)
    return ".".join([*scope, last if not last[:1].isdigit() else f"{node.op_type}_{last}"])


def _atom(part: str) -> str:
    # As Python reads identifiers: it would look for the attribute under the normalised name.
    atom = re.sub(r"\W", "_", normalize("NFKC", part))
    return atom + "_" if atom in _RESERVED or iskeyword(atom) else atom


def _parents(name: str) -> list[str]:
    return [name[: match.start()] for match in re.finditer(r"\.", name)]
