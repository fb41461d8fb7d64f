"""A file that is imported up to values within it: what lies behind, of whatever operators, stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnx_models import save

import reparam_kit as rk
from reparam_kit.cli import main

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(0)
Node = onnx.NodeProto


def node(op: str, reads: str, gives: str, **attributes: object) -> Node:
    return helper.make_node(op, reads.split(), gives.split(), **attributes)


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32) / 4, name)


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def body() -> onnx.GraphProto:
    """The body of a loop that reads ``w`` of the graph around it."""
    nodes = [node("Identity", "go", "more"), node("ReduceMax", "w", "top"), node("Add", "s top", "t")]
    info = helper.make_tensor_value_info
    inputs = [info("i", INT64, []), info("go", TensorProto.BOOL, []), info("s", FLOAT, None)]
    return helper.make_graph(
        nodes, "body", inputs, [info("more", TensorProto.BOOL, []), info("t", FLOAT, None)]
    )


CONV = node("Conv", "x w", "c", pads=[1] * 4)
FLAT = node("Flatten", "c", "f")
TAILS: dict[str, tuple[list[Node], str]] = {
    "TopK": ([FLAT, node("TopK", "f five", "y places")], "f"),
    "GridSample": ([node("GridSample", "c grid", "y")], "c"),
    "a loop": ([FLAT, node("Loop", "five  f", "y", body=body())], "f"),
    "an operator of nobody": ([FLAT, node("Mystery", "f", "y", domain="nobody.knows")], "f"),
    "two branches": (
        [FLAT, node("Conv", "c w2", "d"), node("Relu", "d", "r"), node("Mystery", "f r", "y", domain="nobody.knows")],
        "r",
    ),
}  # fmt: skip


def file(path: Path, tail: list[Node], *, batch: str | int = "n") -> Path:
    stored = [weight("w", 4, 3, 3, 3), weight("w2", 4, 4, 3, 3), weight("grid", 1, 2, 2, 2), ints("five", 5)]
    infos = [helper.make_tensor_value_info("x", FLOAT, [batch, 3, 8, 8])]
    graph = helper.make_graph(
        [CONV, *tail], "g", infos, [helper.make_tensor_value_info("y", FLOAT, None)], stored
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody.knows", 1)]
    return save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


@pytest.mark.parametrize("name", TAILS)
@pytest.mark.parametrize("batch", ["n", 1])
def test_an_error_says_where_the_import_could_end_and_there_it_does(
    tmp_path: Path, name: str, batch: str | int
) -> None:
    tail, end = TAILS[name]
    path = file(tmp_path / "a.onnx", tail, batch=batch)
    with pytest.raises(
        rk.UnsupportedError, match=rf"it can be imported up to '{end}', with .* --outputs {end},"
    ):
        rk.load(path)
    model = rk.load(path, outputs=[end])
    x = torch.randn(3, 3, 8, 8)
    assert rk.check_import(model, x) is None
    if name == "a loop":  # which reads the weight too
        assert not model.get_parameter("c.weight").requires_grad
        return
    rk.save(rk.fold(rk.expand(model)), tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()
    with torch.no_grad():
        model.get_parameter("c.weight").mul_(1.5)
    rk.save(model, tmp_path / "new.onnx")
    report = rk.verify(path, tmp_path / "new.onnx", same_function=False)
    assert report.ok
    assert report.structure is not None
    assert [moved.name for moved in report.structure.payloads] == ["initializer 'w'"]
    assert report.outputs == () if "Mystery" in str(tail) else report.outputs[0].relative > 0.01


def test_several_ends_are_given_in_order_and_named_to_whoever_asks(tmp_path: Path) -> None:
    path = file(tmp_path / "a.onnx", TAILS["two branches"][0])
    model = rk.load(path, outputs=["f", "c"])
    flat, maps = model(torch.randn(2, 3, 8, 8))
    assert flat.equal(maps.flatten(1))
    provenance = model.meta["onnx"]
    assert (provenance.inputs, provenance.outputs, provenance.partial) == (("x",), ("f", "c"), True)


def test_the_message_counts_layers_and_takes_the_last_values(tmp_path: Path) -> None:
    path = file(tmp_path / "a.onnx", TAILS["two branches"][0])
    with pytest.raises(
        rk.UnsupportedError, match=r"up to 'r', with 2 of its 2 convolutions and matrix products"
    ):
        rk.load(path)


def test_a_part_takes_the_inputs_that_it_reads(tmp_path: Path) -> None:
    path = file(tmp_path / "a.onnx", TAILS["TopK"][0])
    whole = onnx.load(path)
    whole.graph.input.insert(0, helper.make_tensor_value_info("words", TensorProto.STRING, ["n"]))
    whole.graph.node.append(node("StringNormalizer", "words", "z"))
    whole.graph.output.append(helper.make_tensor_value_info("z", TensorProto.STRING, None))
    model = rk.load(save(whole, tmp_path / "b.onnx"), outputs=["f"])
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 256)


def test_nothing_is_promised_where_nothing_lies_before(tmp_path: Path) -> None:
    path = file(tmp_path / "a.onnx", [])
    whole = onnx.load(path)
    whole.graph.node[0].CopyFrom(node("Mystery", "x", "c", domain="nobody.knows"))
    whole.graph.node.append(node("Conv", "c w", "y"))
    with pytest.raises(rk.UnsupportedError) as caught:
        rk.load(save(whole, path))
    assert "can be imported up to" not in str(caught.value)


def test_a_part_expanded_and_stored_is_the_same_part_again(tmp_path: Path) -> None:
    path = file(tmp_path / "a.onnx", TAILS["TopK"][0])
    rk.save(rk.expand(rk.load(path, outputs=["f"])), tmp_path / "student.pt")
    student = rk.load(tmp_path / "student.pt")
    x = torch.randn(2, 3, 8, 8)
    assert student(x).allclose(rk.load(path, outputs=["f"])(x), atol=1e-6)
    rk.save(rk.fold(student), tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (["x"], "the output 'x' is an input of the file"),
        (["g"], "the file computes no value 'g' to end at; known values: c, f"),
        (["w"], "the file computes no value 'w' to end at"),
        (["f", "f"], "an output is named twice among 'f', 'f'"),
        (["y"], r"node 'y' \(TopK\).* it can be imported up to 'f'"),
    ],
)
def test_names_that_are_no_ends(tmp_path: Path, outputs: list[str], says: str) -> None:
    with pytest.raises(rk.ReparamError, match=says):
        rk.load(file(tmp_path / "a.onnx", TAILS["TopK"][0]), outputs=outputs)


def test_outputs_are_of_onnx_files() -> None:
    with pytest.raises(rk.InputError, match=r"outputs .* are values within a .onnx file; nets:net is none"):
        rk.load("nets:net", outputs=["f"])


@pytest.mark.parametrize("command", [["inspect"], ["expand", "-o", "student.pt"]])
def test_commands_take_outputs(tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file(tmp_path / "a.onnx", TAILS["TopK"][0])
    refused, done = (
        CliRunner().invoke(main, [*command, "a.onnx", *more]) for more in ([], ["--outputs", "f"])
    )
    assert (refused.exit_code, done.exit_code) == (2, 0)
