"""No run is lost: sizes that files leave open are found, and files that do not run are judged all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import net, retrained, save

from reparam_kit.cli import main
from reparam_kit.errors import InputError
from reparam_kit.verification import verify

FLOAT, INT32, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def model(
    nodes: list[tuple[str, str, str]],
    shape: list[str | int] | None,
    weights: dict[str, np.ndarray],
    kind: int = FLOAT,
    domain: str = "",
) -> ModelProto:
    """A file whose nodes are written ("Conv", "x w", "y"), from x to y."""
    made = [helper.make_node(op, reads.split(), [gives], domain=domain) for op, reads, gives in nodes]
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


FACE = [("Conv", "x w", "c"), ("Flatten", "c", "f"), ("MatMul", "f m", "y")]
W = {"w": weight(2, 3, 3, 3)}
OPEN = {
    "all sizes": (model([("Conv", "x w", "y")], ["a", "b", "c", "d"], W), [1, 3, 64, 64]),
    "nothing declared": (model([("Conv", "x w", "y")], None, W), [1, 3, 64, 64]),
    "unnamed": (model([("Conv", "x w", "y")], [None, None, None, None], W), [1, 3, 64, 64]),  # type: ignore[list-item]
    "channels last": (
        model([("Transpose", "x", "t"), ("Conv", "t w", "y")], ["a", "b", "c", "d"], W), [1, 64, 64, 3],
    ),
    "behind arithmetic": (
        model([("Sub", "x m", "s"), ("Cast", "s", "c"), ("Conv", "c w", "y")], ["n", "c", "h", "w"],
              {**W, "m": weight(1, 3, 1, 1)}), [1, 3, 64, 64],
    ),
    "sound": (model([("Conv", "x w", "y")], ["n", "c", "samples"], {"w": weight(2, 1, 400)}), [1, 1, 512]),
    "a wave": (
        model([("Unsqueeze", "x a", "u"), ("Conv", "u w", "y")], ["samples"],
              {"w": weight(2, 1, 400), "a": ints(0, 1)}), [512],
    ),
    "a face of 112": (
        model(FACE, ["n", 3, "h", "w"], {"w": weight(2, 3, 7, 7), "m": weight(2 * 106 * 106, 4)}),
        [1, 3, 112, 112],
    ),
    "places in a table": (model([("Gather", "t x", "y")], ["n", "s"], {"t": weight(7, 2)}, INT64), [1, 64]),
    "places in a small one": (
        model([("Abs", "x", "i"), ("Gather", "t i", "y")], ["n", "s"], {"t": weight(2, 2)}, INT32), [1, 64],
    ),
    "places in floats": (
        model([("Cast", "x", "i"), ("Gather", "t i", "y")], ["n", "s"], {"t": weight(7, 2)}), [1, 64],
    ),
    "a mask": (model([("Where", "x a b", "y")], ["n", 4], {"a": weight(1), "b": weight(1)}, BOOL), [1, 4]),
}  # fmt: skip
for made, _ in OPEN.values():
    for node in made.graph.node:
        if node.op_type == "Cast":
            node.attribute.append(helper.make_attribute("to", INT64 if node.output[0] == "i" else FLOAT))
        if node.op_type == "Transpose":
            node.attribute.append(helper.make_attribute("perm", [0, 3, 1, 2]))


@pytest.mark.parametrize("name", OPEN)
def test_sizes_that_a_file_leaves_open_are_found(tmp_path: Path, name: str) -> None:
    made, shape = OPEN[name]
    a = save(made, tmp_path / "a.onnx")
    report = verify(a, a, latency=True)
    assert report.ok
    assert report.outputs[0].relative == 0
    assert f"on random inputs of shapes [{shape}]" in report.notes[0]
    assert report.latency_ratio is not None


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Takes 24 x 94 only, and does not say so."""
    return save(
        model(FACE, ["n", "c", "h", "w"], {**W, "m": weight(2 * 22 * 92, 4)}), tmp_path / "plate.onnx"
    )


def test_sizes_that_are_not_found_are_asked_for_and_can_be_given(plate: Path) -> None:
    report = verify(plate, plate)
    assert report.ok
    assert report.outputs == ()
    assert "GEMM" in report.notes[0] or "MatMul" in report.notes[0]
    assert report.notes[0].endswith("say its sizes (--shape)")
    assert str(report).startswith("equal, judged by graph and weights alone: the files were not run")
    given = verify(plate, plate, shapes={"x": (2, 3, 24, 94)})
    assert given.outputs[0].ok
    assert "[[2, 3, 24, 94]]" in given.notes[0]
    assert verify(plate, plate, torch.randn(2, 3, 24, 94)).outputs[0].ok


@pytest.mark.parametrize(
    ("shape", "exit_code", "says"),
    [
        ("x=1,3,24,94", 0, "[[1, 3, 24, 94]]"),
        ("y=1,3,24,94", 2, "a shape is given for 'y', which is no input; known inputs: x"),
        ("x=1,3,24", 2, "input 'x' has sizes (free, free, free, free), which [1, 3, 24] do not fit"),
        ("x=1,3,24,95", 2, "cannot run"),
        ("x=1,3,-1,94", 2, "write a shape as x=1,3,24,94"),
        ("1,3,24,94", 2, "write a shape as x=1,3,24,94"),
    ],
)
def test_shapes_on_the_command_line(plate: Path, shape: str, exit_code: int, says: str) -> None:
    result = CliRunner().invoke(main, ["verify", str(plate), str(plate), "--shape", shape])
    assert result.exit_code == exit_code
    assert says in result.output


def test_shapes_are_of_files_and_of_noise(plate: Path) -> None:
    with pytest.raises(InputError, match="give one of them"):
        verify(plate, plate, torch.randn(1, 3, 24, 94), shapes={"x": (1, 3, 24, 94)})
    with pytest.raises(InputError, match="shapes are of the inputs of files"):
        verify(torch.nn.ReLU(), torch.nn.ReLU(), shapes={"x": (1, 3, 24, 94)})


def _unknown_operator(model: ModelProto) -> None:
    model.graph.node[2].op_type = "Rellu"


def _missing_tensor(model: ModelProto) -> None:
    del model.graph.initializer[0]


@pytest.mark.parametrize("spoil", [_unknown_operator, _missing_tensor])
def test_files_that_onnxruntime_does_not_load(tmp_path: Path, spoil: Callable[[ModelProto], None]) -> None:
    made = net()
    spoil(made)
    a = save(made, tmp_path / "a.onnx")
    tensor = made.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, tensor.name))
    b = save(made, tmp_path / "b.onnx")
    for inputs in (None, torch.randn(1, 3, 8, 8)):
        same, loose, strict = (
            verify(a, a, inputs),
            verify(a, b, inputs, same_function=False),
            verify(a, b, inputs),
        )
        assert (same.ok, loose.ok, strict.ok) == (True, True, False)
        assert same.notes[0].startswith("outputs not compared: onnxruntime cannot load")
        assert "\n" not in same.notes[0]
    assert str(strict).startswith("NOT equal, judged by graph and weights alone")
    assert str(loose).startswith(
        "equal but for the weights, judged by the graph alone: the files were not run"
    )
    assert verify(a, b, same_function=False, latency=True).latency_ratio is None
    arguments = ["verify", str(a), str(b), "--retrained", "--json", "--inputs", str(tmp_path / "x.npz")]
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 3, 8, 8), np.float32))
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    assert json.loads(result.output)["outputs"] == []


def test_a_net_that_knows_one_image_only_is_run_on_one(tmp_path: Path) -> None:
    made = model([("Reshape", "x s", "y")], ["n", 4], {"s": ints(1, 2, 2)})
    a = save(made, tmp_path / "a.onnx")
    assert verify(a, a).notes[0].endswith("on random inputs of shapes [[1, 4]]")


def test_images_of_a_data_set_go_in_the_batch_that_a_file_fixes(tmp_path: Path) -> None:
    a = save(net(batch="2"), tmp_path / "a.onnx")
    report = verify(a, retrained(a, tmp_path / "b.onnx"), torch.randn(3, 3, 8, 8), same_function=False)
    assert report.notes[0].endswith("on the given inputs of shapes [[2, 3, 8, 8]], [[2, 3, 8, 8]]")


def test_outputs_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    made = model([("Cast", "x", "y")], ["n"], {})
    made.graph.node[0].attribute.append(helper.make_attribute("to", FLOAT))
    made.graph.node.append(helper.make_node("Cast", ["x"], ["text"], to=TensorProto.STRING))
    made.graph.output.append(helper.make_tensor_value_info("text", TensorProto.STRING, None))
    a = save(made, tmp_path / "a.onnx")
    report = verify(a, a)
    assert [output.name for output in report.outputs] == ["y"]
    assert report.notes[0].endswith("not compared, since no tensors of numbers: 'text'")


def test_what_is_no_number_in_both_is_no_difference(tmp_path: Path) -> None:
    a = save(model([("Log", "x", "y")], [4, 8], {}), tmp_path / "a.onnx")
    assert verify(a, a).ok
    b = save(model([("Abs", "x", "z"), ("Log", "z", "y")], [4, 8], {}), tmp_path / "b.onnx")
    assert not verify(a, b).outputs[0].ok
