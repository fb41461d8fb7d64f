"""Which scales of a quantised file belong to one weight alone, so that a new one may be written with that weight.

Such a scale is stored, and read by nothing but what quantises the weight, which one layer takes. A bias of 32 bits is
in the scale of the layer's sums, ``bias_scale = in_scale * weight_scale``: its own scale must follow, and so have as
free a place, unless the operator implies it (``QLinearConv``, ``QGemm``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from reparam_kit.errors import InputError, suggestion
from reparam_kit.onnx.changes import Change, change
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.weights import LAYOUT, OnnxFile, scopes, stored_tensors

Scales: TypeAlias = Literal["kept", "weights"]
"""Whether a file keeps all its scales, or gets new ones for its weights."""

_FURTHEST = 4  # nodes from a product to its scale

_PAIR = ("QuantizeLinear", "DequantizeLinear")

# Operator -> positions of a weight and of its scale.
_SCALED = {
    **dict.fromkeys(_PAIR, (0, 1)),
    "DynamicQuantizeMatMul": (1, 2),
    "MatMulIntegerToFloat": (1, 3),
    "QGemm": (3, 4),
    "QLinearConv": (3, 4),
    "QLinearMatMul": (3, 4),
}
_ADDED = {"QGemm": 6, "QLinearConv": 8}  # position of a bias, which is in the scale of the sums
_COMPUTED = "its bias, which would follow, is computed in the graph"
_SHARED = "its bias, which would follow, is read by something else too"
_SCALED_BEHIND = {"ConvInteger", "MatMulInteger"}  # by a product with the sums
_WITH_BIAS = {"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "Gemm"}
_LAYERS = {*_WITH_BIAS, "FusedMatMul", "MatMul"}


@dataclass(frozen=True)
class OwnScale:
    """Where the scale of a weight stands, and that of the bias that follows it, where it has one."""

    key: TensorKey
    bias: TensorKey | None = None


def require_scales(scales: str) -> bool:
    """Return whether new scales are wanted.

    Raises:
        InputError: it is neither "kept" nor "weights".
    """
    kinds = get_args(Scales)
    if scales not in kinds:
        raise InputError(f"scales={scales!r} is not known: {suggestion(str(scales), kinds, 'choices')}")
    return scales == "weights"


class Wiring:
    """Which nodes of the main graph compute and read a value."""

    def __init__(self, nodes: Collection[NodeProto]) -> None:
        self.makers = {name: node for node in nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                self.readers[name].append(node)

    def factors_behind(self, name: str) -> Iterator[str]:
        """Yield what ``name`` is multiplied by, itself or within a product, past casts."""
        for _ in range(_FURTHEST):
            readers = self.readers.get(name, [])
            if len(readers) != 1 or readers[0].op_type not in ("Cast", "Mul"):
                return
            [node] = readers
            if node.op_type == "Mul":
                [other] = [factor for factor in node.input if factor != name] or [name]
                made = self.makers.get(other)
                yield from [other, *(made.input if made is not None and made.op_type == "Mul" else ())]
            name = node.output[0]


def own_scales(model: ModelProto) -> dict[TensorKey, OwnScale | str]:
    """Return, of stored tensors of the main graph that are quantised weights, the scale, or why it must stay."""
    return _Search(model).found()


def places_of(file: OnnxFile) -> list[OwnScale]:
    """Return the places of all scales that may follow their weights."""
    return [scale for scale in own_scales(file.model).values() if isinstance(scale, OwnScale)]


class _Search:
    def __init__(self, model: ModelProto) -> None:
        self._wiring = Wiring(model.graph.node)
        stored = {key: tensor for key, tensor in stored_tensors(model).items() if not key.scope}
        self._keys = {key.name: key for key in stored}
        self._stored = {key.name: tensor for key, tensor in stored.items()}
        # Read where it is not seen as what: in sub-graphs, functions, or behind the file.
        inner = (node for scope, nodes, _ in scopes(model) if scope for node in nodes)
        self._elsewhere = {name for node in inner for name in node.input}
        self._elsewhere.update(output.name for output in model.graph.output)

    def found(self) -> dict[TensorKey, OwnScale | str]:
        found = {key: self._of(name) for name, key in self._keys.items()}
        return {key: scale for key, scale in found.items() if scale is not None}

    def _of(self, name: str) -> OwnScale | str | None:
        """Return the scale of a stored tensor; ``None`` of one that is not quantised."""
        scale, by = "", list[NodeProto]()
        for _ in range(len(self._wiring.makers)):  # as long as a way can be
            readers = self._wiring.readers.get(name, [])
            if len(readers) != 1 or name in self._elsewhere:
                return "several parts of the file use it" if by else None
            [node] = readers
            if node.op_type in _PAIR and any(a.name == "block_size" and a.i for a in node.attribute):
                return "it has a scale for each block of numbers"
            at = list(node.input).index(name)
            if at == _SCALED.get(node.op_type, (None,))[0]:
                found = _input(node, _SCALED[node.op_type][1])
                if scale not in ("", found):
                    return "it is quantised by one scale and dequantised by another"
                scale, by = found, [*by, node]
                if node.op_type not in _PAIR:
                    bias = _input(node, _ADDED.get(node.op_type, len(node.input)))
                    if bias not in ("", *self._keys):
                        return _COMPUTED
                    return self._own(scale, by, None) if not bias or self._is_alone(bias, [node]) else _SHARED
            elif node.op_type in _SCALED_BEHIND and at == 1:
                scale = "" if by else self._factor(node, list(self._stored[name].dims))
                return self._own(scale, self._wiring.readers.get(scale, [])[:1], None)
            elif at != 0 or node.op_type not in LAYOUT:
                return self._own(scale, by, node if at == 1 else None) if by else None
            name = node.output[0]
        return None

    def _own(self, scale: str, by: list[NodeProto], layer: NodeProto | None) -> OwnScale | str:
        """Return the scale called so, by which these nodes quantise a weight."""
        if scale not in self._keys:
            return "the file has no scale for it alone"
        if not self._is_alone(scale, by):
            return "its scale is that of something else too"
        own = OwnScale(self._keys[scale])
        if by[-1].op_type != "DequantizeLinear":
            return own
        if layer is None or layer.op_type not in _LAYERS:
            return "no convolution or matrix product takes it"
        if layer.op_type not in _WITH_BIAS or len(layer.input) < 3:
            return own
        return self._with_bias(own, layer.input[2])

    def _factor(self, sums: NodeProto, weight: list[int]) -> str:
        """Return the stored factor of sums of integers, by itself or within a product with the scale of what they are
        sums of; "" where something on the way is read by others too, or is no factor of the outputs of ``weight``.
        """
        cast = self._only_reader(sums.output[0], "Cast")
        if cast is None or cast.attribute[0].i != TensorProto.FLOAT:
            return ""
        product = self._only_reader(cast.output[0], "Mul")
        if product is None:
            return ""
        [factor] = [name for name in product.input if name != cast.output[0]] or [""]
        made = self._wiring.makers.get(factor)
        if made is not None and made.op_type == "Mul" and self._only_reader(factor, "Mul") is product:
            factor = next((name for name in made.input if name in self._keys), "")
        if factor not in self._keys:
            return ""
        dims, behind = list(self._stored[factor].dims), [1] * (len(weight) - 2)
        each = [weight[0], *behind] if sums.op_type == "ConvInteger" else [weight[-1]]
        fits = (
            (prod(dims) == 1 and len(dims) < 2)
            or dims == each
            or dims == [1, *each][: len(each) + bool(behind)]
        )
        return factor if fits else ""

    def _only_reader(self, name: str, operator: str) -> NodeProto | None:
        readers = self._wiring.readers.get(name, [])
        alone = len(readers) == 1 and name not in self._elsewhere and readers[0].op_type == operator
        return readers[0] if alone else None

    def _with_bias(self, own: OwnScale, bias: str) -> OwnScale | str:
        node, read = self._wiring.makers.get(bias), [bias]
        for _ in range(_FURTHEST):
            if node is not None and node.op_type in LAYOUT:
                read.append(_input(node, 0))
                node = self._wiring.makers.get(_input(node, 0))
        if node is None or node.op_type != "DequantizeLinear":
            return own
        if _input(node, 0) not in self._keys:
            return _COMPUTED
        if self._stored[_input(node, 0)].data_type != TensorProto.INT32:
            return own  # it has a range of its own, as another tensor
        scale = _input(node, 1)
        if scale not in self._keys or not self._is_alone(scale, [node]):
            return "the scale of its bias, which would follow, is that of something else too"
        if any(len(self._wiring.readers[n]) > 1 or n in self._elsewhere for n in (*read, _input(node, 0))):
            return _SHARED
        return OwnScale(own.key, self._keys[scale])

    def _is_alone(self, name: str, by: list[NodeProto]) -> bool:
        readers = self._wiring.readers.get(name, [])
        return name not in self._elsewhere and len(readers) == len(by) and all(r in by for r in readers)


def _input(node: NodeProto, at: int) -> str:
    return node.input[at] if at < len(node.input) else ""


def scale_changes(a: OnnxFile, b: OnnxFile, places: Iterable[OwnScale]) -> Iterator[Change]:
    """Yield what is wrong with the scales that ``b`` has at these places of ``a``: a number that can be none, or a bias
    whose scale has not followed that of its weight.
    """
    before, after = stored_tensors(a.model), stored_tensors(b.model)
    for place in places:
        ratios = []
        for key in (place.key, place.bias):
            if key is None or key not in after or after[key].dims != before[key].dims:
                continue
            old, new = (file.read(t[key]).astype(np.float64) for file, t in ((a, before), (b, after)))
            if not (np.isfinite(new) & ((new > 0) | (new == old))).all():
                yield change("changed", f"the scale {key}", str(old.tolist()), str(new.tolist()))
            with np.errstate(all="ignore"):
                ratios.append(np.where(new == old, 1.0, new / old).reshape(-1))
        if len(ratios) == 2 and not _are_alike(ratios[0], ratios[1], _rounding(before, place)):
            was, is_ = (f"{ratio.tolist()} times what it was" for ratio in ratios)
            yield change("changed", f"the scale {place.bias} of the bias beside {place.key}", was, is_)


def _are_alike(a: NDArray[np.float64], b: NDArray[np.float64], rounding: float) -> bool:
    if len({1, a.size, b.size}) > 2:  # which no layer has
        return bool((a == 1).all() and (b == 1).all())
    return np.allclose(a, b, rtol=rounding)


def _rounding(stored: Mapping[TensorKey, TensorProto], place: OwnScale) -> float:
    """Return by how much two roundings to the type of a scale may set it off."""
    return 1e-5 if stored[place.key].data_type in (TensorProto.FLOAT, TensorProto.DOUBLE) else 0.02
