"""The order in which nodes can be imported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from onnx import NodeProto

from reparam_kit.onnx.part import names_read


def in_order(nodes: Iterable[NodeProto], known: Iterable[str]) -> Iterator[NodeProto]:
    """Yield each node once what it reads is there, else in the order of the file: some converters append nodes at the
    end.

    Those for which it never is come last.
    """
    nodes, known = list(nodes), {"", *known}
    missing = [set(names_read(node)) - known for node in nodes]
    readers: dict[str, list[int]] = defaultdict(list)
    for i, names in enumerate(missing):
        for name in names:
            readers[name].append(i)
    # By how often the file is gone through before, then as the file has them.
    ready = [(0, i) for i, names in enumerate(missing) if not names]
    while ready:
        turn, i = heappop(ready)
        yield nodes[i]
        for name in nodes[i].output:
            for reader in readers.pop(name, ()):
                missing[reader].remove(name)
                if not missing[reader]:
                    heappush(ready, (turn + (reader < i), reader))
    yield from (node for node, names in zip(nodes, missing, strict=True) if names)
