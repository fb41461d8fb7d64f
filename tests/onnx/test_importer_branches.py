"""``If``: the branch that is always taken is imported, trained and written back; where either may be, it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper
from onnx_models import save

import reparam_kit as rk

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)
node = helper.make_node


def stored(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def ints(name: str, value: int) -> TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


def branch(name: str) -> GraphProto:
    """A convolution with a weight of its own, called alike in both branches."""
    nodes = [node("Conv", ["c", "own"], ["s"]), node("Relu", ["s"], ["r"])]
    return helper.make_graph(
        nodes, name, [], [helper.make_tensor_value_info("r", FLOAT, None)], [stored("own", 4, 4, 1, 1)]
    )


def model(axis: int, equals: int, sizes: list[str | int]) -> ModelProto:
    """Takes one branch where the size at ``axis`` of a convolution's output is ``equals``."""
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Shape", ["c"], ["sizes"]),
        node("Gather", ["sizes", "axis"], ["size"]),
        node("Equal", ["size", "wanted"], ["is"]),
        node("If", ["is"], ["y"], then_branch=branch("then"), else_branch=branch("else")),
    ]
    info = helper.make_tensor_value_info
    weights = [stored("w", 4, 3, 3, 3), ints("axis", axis), ints("wanted", equals)]
    graph = helper.make_graph(nodes, "g", [info("x", FLOAT, sizes)], [info("y", FLOAT, None)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("axis", "equals", "sizes", "taken"),
    [
        (0, 1, [1, 3, 8, 8], "then"),
        (0, 2, [1, 3, 8, 8], "else"),
        (1, 4, ["n", 3, 8, 8], "then"),
        (1, 4, ["n", 3, "h", "w"], "then"),
        (2, 1, ["n", 3, 8, 8], "else"),
    ],
)
def test_the_branch_that_is_always_taken(
    tmp_path: Path, axis: int, equals: int, sizes: list[str | int], taken: str
) -> None:
    path = save(model(axis, equals, sizes), tmp_path / "a.onnx")
    net = rk.load(path)
    x = torch.randn(3, 3, 8, 8)
    assert rk.check_import(net, x) is None
    rk.save(rk.fold(rk.expand(net)), tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    rk.save(net, tmp_path / "new.onnx")
    assert [moved.name for moved in rk.diff(path, tmp_path / "new.onnx").payloads] == [
        "initializer 'w'",
        f"initializer 'own' in {taken}_branch of If ''",
    ]
    assert rk.check_import(net, x) is None


@pytest.mark.parametrize(("axis", "sizes"), [(0, ["n", 3, 8, 8]), (2, ["n", 3, "h", "w"])])
def test_sizes_that_the_file_leaves_open_decide_nothing(
    tmp_path: Path, axis: int, sizes: list[str | int]
) -> None:
    made = model(axis, 1 if axis == 0 else 62, sizes)  # of an image of 64
    with pytest.raises(rk.UnsupportedError, match=r"'y' \(If\): its condition depends on sizes .* up to 'c'"):
        rk.load(save(made, tmp_path / "a.onnx"))


def test_numbers_of_an_image_decide_nothing(tmp_path: Path) -> None:
    made = model(0, 1, [1, 3, 8, 8])
    del made.graph.node[1:4]
    made.graph.node.insert(1, node("ReduceMax", ["c"], ["m"], keepdims=0))
    made.graph.node.insert(2, node("Cast", ["m"], ["is"], to=TensorProto.BOOL))
    with pytest.raises(
        rk.UnsupportedError, match=r"'y' \(If\): its condition depends on the numbers .* up to 'c'"
    ):
        rk.load(save(made, tmp_path / "a.onnx"))
