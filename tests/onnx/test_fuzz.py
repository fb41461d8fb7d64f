"""Damaged files: one clear line each, no other exception, no crash, no file left behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from damage import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, TensorProto, helper
from onnx_models import net
from onnx_text import SMALL, SMALL_WEIGHTS, Weights, write

# Numbers that mean nothing are part of what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")

SHAPES = """net (float[1,4,8,8] x) => (float y) {
    s = Shape (x) n = Gather <axis = 0> (s, zero) n1 = Unsqueeze (n, first) t = Concat <axis = 0> (n1, rest)
    a = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x) b = Resize <mode = "linear"> (a, , scales)
    c = Pad (b, pads) d = Concat <axis = 1> (c, c) e = Slice (d, first, last) f = Expand (e, ones)
    g = Tile (f, ones) h = Reshape (g, t) i = LayerNormalization <axis = -1> (h, scale)
    j = ConstantOfShape (two) y = Add (i, j)
}"""
SHAPES_WEIGHTS: Weights = {
    "zero": np.array(0),
    "first": np.array([0]),
    "rest": np.array([-1]),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "last": np.array([5]),
    "ones": np.array([1, 1, 1, 1]),
    "two": np.array([1, 1]),
    "scale": (800,),
}
QUANTISED = """net (float[N,3,8,8] x) => (float[N,4,6,6] y) {
    q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
    w = DequantizeLinear <axis = 0> (levels, ws, wz) y = Conv (d, w)
}"""
QUANTISED_WEIGHTS: Weights = {
    "s": np.array(0.1, np.float32),
    "z": np.array(3, np.uint8),
    "levels": np.ones((4, 3, 3, 3), np.int8),
    "ws": np.ones(4, np.float32),
    "wz": np.zeros(4, np.int8),
}


@cache
def originals() -> list[bytes]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        payloads = [net(constants=("conv_w",)).SerializeToString()]
        for text, weights in (
            (SMALL, SMALL_WEIGHTS),
            (SHAPES, SHAPES_WEIGHTS),
            (QUANTISED, QUANTISED_WEIGHTS),
        ):
            write(path, text, weights)
            payloads.append(path.read_bytes())
        return payloads


@pytest.mark.parametrize("which", range(4))
def test_truncated(which: int, tmp_path: Path) -> None:
    whole = originals()[which]
    assert refusal(whole, tmp_path) is None
    for length in range(0, len(whole), 29):
        refusal(whole[:length], tmp_path)
    assert refusal(whole[: len(whole) // 2], tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes(seed: int, tmp_path: Path) -> None:
    random, refused = Random(seed), 0
    for _ in range(60):
        payload = bytearray(random.choice(originals()))
        for _ in range(random.choice([1, 1, 2, 4])):
            start = random.randrange(len(payload))
            payload[start : start + random.randrange(4)] = random.randbytes(random.randrange(4))
        refused += refusal(bytes(payload), tmp_path) is not None
    assert refused > 10


# Mutations that leave the protobuf well-formed and the model not.

NUMBERS = [-(2**63), -(2**31), -7, -1, 0, 1, 2, 3, 17, 1000, 2**20, 2**31, 2**40, 2**62, 2**63 - 1]


def change_size(graph: GraphProto, pick: Random) -> None:
    tensor = pick.choice(graph.initializer)
    tensor.dims.insert(pick.randrange(len(tensor.dims) + 1), pick.choice(NUMBERS))
    if pick.random() < 0.5:
        del tensor.dims[pick.randrange(len(tensor.dims))]


def change_input_size(graph: GraphProto, pick: Random) -> None:
    pick.choice(graph.input[0].type.tensor_type.shape.dim).dim_value = pick.choice(NUMBERS)


def change_type(graph: GraphProto, pick: Random) -> None:
    pick.choice(graph.initializer).data_type = pick.randrange(26)


def change_numbers(graph: GraphProto, pick: Random) -> None:
    integers = [
        tensor
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.INT64 and len(tensor.raw_data) >= 8
    ]
    if integers:
        tensor = pick.choice(integers)
        tensor.raw_data = np.int64(pick.choice(NUMBERS)).tobytes() + tensor.raw_data[8:]


def change_attribute(graph: GraphProto, pick: Random) -> None:
    node = pick.choice(graph.node)
    if not node.attribute or pick.random() < 0.2:
        name = pick.choice(["axis", "pads", "strides", "kernel_shape", "group", "dilations", "mode"])
        node.attribute.append(helper.make_attribute(name, [pick.choice(NUMBERS) for _ in range(4)]))
    attribute = pick.choice(node.attribute)
    attribute.type = pick.choice([attribute.type, pick.randrange(15)])
    attribute.i, attribute.f, attribute.s = (
        pick.choice(NUMBERS),
        pick.choice([0.0, 1e30, float("nan")]),
        b"\xff",
    )
    if attribute.ints:
        attribute.ints[pick.randrange(len(attribute.ints))] = pick.choice(NUMBERS)


def change_operator(graph: GraphProto, pick: Random) -> None:
    others = "Range Split TopK Loop If Where Gemm MatMul ConvTranspose SequenceAt Softmax GroupNormalization Cast LRN"
    pick.choice(graph.node).op_type = pick.choice([*(n.op_type for n in graph.node), *others.split()])


def change_name(graph: GraphProto, pick: Random) -> None:
    node = pick.choice(graph.node)
    known = [name for n in graph.node for name in (*n.input, *n.output)]
    names = node.output if not node.input or pick.random() < 0.5 else node.input
    if names:
        names[pick.randrange(len(names))] = pick.choice([*known, "", "nowhere"])


def repeat_node(graph: GraphProto, pick: Random) -> None:
    graph.node.add().CopyFrom(pick.choice(graph.node))


def remove_node(graph: GraphProto, pick: Random) -> None:
    if len(graph.node) > 1:
        graph.node.remove(pick.choice(graph.node))


def remove_input(graph: GraphProto, pick: Random) -> None:
    node = pick.choice(graph.node)
    del node.input[pick.randrange(len(node.input) + 1) :]


CHANGES = [
    change_size,
    change_input_size,
    change_type,
    change_numbers,
    change_attribute,
    change_operator,
    change_name,
    repeat_node,
    remove_node,
    remove_input,
]


@settings(deadline=None, max_examples=300, derandomize=True)
@given(
    which=st.integers(0, 3),
    changes=st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3),
    pick=st.integers(0, 2**32),
)
def test_changed_fields(
    which: int, changes: Sequence[Callable[[GraphProto, Random], None]], pick: int
) -> None:
    model, random = ModelProto.FromString(originals()[which]), Random(pick)
    for change in changes:
        change(model.graph, random)
    with TemporaryDirectory() as folder:
        refusal(model.SerializeToString(), Path(folder))


# Files made to do harm.
