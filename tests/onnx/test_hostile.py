"""Hostile files: one clear line each, no other exception, no crash, no file left behind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from damage import refusal
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

# Numbers that mean nothing are part of what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")


def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or None)


def model_of(
    *nodes: NodeProto,
    stored: Sequence[TensorProto] = (),
    inputs: Sequence[onnx.ValueInfoProto] = (value("x", "n", 4),),
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 17,
) -> ModelProto:
    graph = helper.make_graph(list(nodes), "graph", inputs, [value("y")], list(stored))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=10)


def node(op_type: str, inputs: str, outputs: str = "y", **attributes: object) -> NodeProto:
    domain = "own" if op_type.startswith("f") else ""
    return helper.make_node(op_type, inputs.split(" "), outputs.split(), domain=domain, **attributes)


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def floats(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def sized(*dims: int) -> TensorProto:
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 4)


def external(**entries: str) -> ModelProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    return model_of(node("Add", "x w"), stored=[tensor])


def function(name: str, *nodes: NodeProto) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, ["a"], ["b"], nodes, opsets)


def doubling(depth: int) -> list[onnx.FunctionProto]:
    calls = [*(f"f{i}" for i in range(1, depth)), "Relu"]
    return [function(f"f{i}", node(call, "a", "t"), node(call, "t", "b")) for i, call in enumerate(calls)]


def nested(depth: int) -> ModelProto:
    inner = helper.make_graph([node("Relu", "x", "z")], "inner", [], [value("z")])
    for _ in range(depth):
        inner = helper.make_graph([node("If", "c", "z", then_branch=inner)], "inner", [], [value("z")])
    return model_of(*inner.node, node("Relu", "z"))


IMAGE = (value("x", 1, 1, 8, 8),)
TWO = [value("x", 1, 4), value("x", 1, 4)]
HOSTILE: dict[str, tuple[ModelProto, str]] = {
    "a function that calls itself": (
        model_of(node("f", "x"), functions=[function("f", node("f", "a", "b"))]),
        "cannot be inlined",
    ),
    "functions in a circle": (
        model_of(
            node("f", "x"),
            functions=[function("f", node("f2", "a", "b")), function("f2", node("f", "a", "b"))],
        ),
        "cannot be inlined",
    ),
    "functions that double": (model_of(node("f0", "x"), functions=doubling(40)), "1099511627776 nodes"),
    "a circle": (
        model_of(node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b")),
        "nothing before",
    ),
    "an output twice": (model_of(node("Relu", "x"), node("Neg", "x")), "two of its values are called 'y'"),
    "a weight twice": (
        model_of(node("Add", "x w"), stored=[floats("w", 4)] * 2),
        "two of its values are called 'w'",
    ),
    "an input twice": (model_of(node("Relu", "x"), inputs=TWO), "two of its values are called 'x'"),
    "a weight that is computed": (
        model_of(node("Relu", "x", "w"), node("Add", "x w"), stored=[floats("w", 4)]),
        "two of its values are called 'w'",
    ),
    "a missing input": (model_of(node("Relu", "")), "input 0 is missing"),
    "a missing bias": (
        model_of(node("InstanceNormalization", "x w"), stored=[floats("w", 1)], inputs=IMAGE),
        "input 2 is missing",
    ),
    "a missing output": (model_of(node("Relu", "x", "z")), "nothing before it computes 'y'"),
    "subgraphs": (nested(20), r"\(If\): nothing before it computes 'c'"),
    "a huge weight": (
        model_of(node("Add", "x w"), stored=[sized(2**40, 2**20)]),
        "'w' of shape .* is damaged",
    ),
    "a huge weight of nothing": (model_of(node("Add", "x w"), stored=[sized(0, 2**62)]), "is damaged"),
    "a negative size": (model_of(node("Add", "x w"), stored=[sized(-4)]), "is damaged"),
    "a huge input": (model_of(node("Relu", "x"), inputs=[value("x", 2**62, 2**62)]), "is damage"),
    "a huge fill": (model_of(node("ConstantOfShape", "s"), stored=[ints("s", 2**20, 2**20)]), "damage"),
    "many large fills": (
        model_of(
            *(node("ConstantOfShape", "s", f"c{i}") for i in range(20)),
            *(node("Neg", f"c{i}", f"d{i}") for i in range(20)),
            node("Add", "x d0"),
            stored=[ints("s", 2**11, 2**12)],
        ),
        "entries are computed from",
    ),
    "a huge fill by shape": (
        model_of(node("Shape", "x", "s"), node("ConstantOfShape", "s"), inputs=[value("x", 1, 2**40)]),
        "damage",
    ),
    "a huge range": (
        model_of(node("Range", "a b c"), stored=[ints("a", 0), ints("b", 2**50), ints("c", 1)]),
        "damage",
    ),
    "a range that stands still": (
        model_of(node("Range", "a b c"), stored=[ints("a", 0), ints("b", 2**50), ints("c", 0)]),
        "malformed",
    ),
    "a huge tile": (model_of(node("Tile", "w s"), stored=[floats("w", 4), ints("s", 2**50)]), "damage"),
    "a huge expansion": (
        model_of(node("Expand", "w s"), stored=[floats("w", 4), ints("s", 2**50, 4)]),
        "damage",
    ),
    "a huge pad": (model_of(node("Pad", "w s"), stored=[floats("w", 4), ints("s", 2**40, 0)]), "damage"),
    "a huge edge": (
        model_of(node("Pad", "w s", mode="edge"), stored=[floats("w", 4), ints("s", 2**40, 0)]),
        "damage",
    ),
    "a huge resize": (
        model_of(node("Resize", "w   s"), stored=[floats("w", 1, 1, 4, 4), ints("s", 1, 1, 2**31, 2**31)]),
        "damage",
    ),
    "too many groups": (
        model_of(node("Conv", "x w", group=2**60), stored=[floats("w", 1, 1, 3, 3)], inputs=IMAGE),
        "malformed",
    ),
    "a data file above": (external(location="../../etc/passwd"), "outside its own folder"),
    "a data file elsewhere": (external(location="/etc/passwd"), "outside its own folder"),
    "a data file with a zero in its name": (external(location="a\0b"), "outside its own folder"),
    "no data file": (external(), "malformed address"),
    "a data file that is gone": (external(location="gone.bin"), "gone.bin: no such file"),
    "a folder of data": (external(location="."), "is a folder"),
    "an offset that is text": (external(location="model.onnx", offset="x"), "malformed address"),
    "a negative offset": (external(location="model.onnx", offset="-5"), "negative offset"),
    "an offset beyond the end": (
        external(location="model.onnx", offset=str(2**70), length="16"),
        "truncated, or belongs",
    ),
}


@pytest.mark.parametrize(("model", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files(model: ModelProto, words: str, tmp_path: Path) -> None:
    said = refusal(model.SerializeToString(), tmp_path)
    assert said is not None
    assert re.search(words, said), said


def test_subgraphs_beyond_the_depth_that_protobuf_reads(tmp_path: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        size = len(content)
        return bytes([8 * number + 2, 128 + size % 128, 128 + (size >> 7) % 128, size >> 14]) + content

    graph = b""
    for _ in range(200):
        graph = field(1, field(5, field(6, graph)))  # node, attribute, g
    assert "not an ONNX model" in (refusal(field(7, graph), tmp_path) or "")


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.bin").symlink_to(tmp_path / "secret")
    said = refusal(external(location="link.bin").SerializeToString(), tmp_path / "folder")
    assert said is not None
    assert "outside its own folder" in said
