"""Files, and a module against a file: graph, outputs in onnxruntime, and files that do not run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nets import nudged
from onnx import TensorProto, parser
from onnx_models import net, raw, retrained, save, save_external, typed
from torch import Tensor

from reparam_kit.errors import InputError
from reparam_kit.onnx import import_onnx
from reparam_kit.verification import OutputError, verify


@pytest.mark.parametrize("batch", ["n", "2"])
def test_files_that_are_equal(tmp_path: Path, batch: str) -> None:
    a = save(net(batch=batch), tmp_path / "a.onnx")
    report = verify(a, str(a))
    assert report.ok
    assert report.outputs == (OutputError("y", 0.0, 0.0, 1.0, 1e-5),)
    shapes = "[[1, 3, 8, 8]], [[3, 3, 8, 8]]" if batch == "n" else "[[2, 3, 8, 8]]"
    assert report.notes == (
        f"run in onnxruntime, graph optimisations off and on, on random inputs of shapes {shapes}",
    )
    assert report.file_sizes == (a.stat().st_size, a.stat().st_size)
    assert report.latency_ratio is None


def test_a_retrained_file_is_the_same_graph_and_another_function(tmp_path: Path) -> None:
    a = save(net(), tmp_path / "a.onnx")
    b = retrained(a, tmp_path / "b.onnx")
    strict, loose = verify(a, b), verify(a, b, same_function=False)
    assert (strict.ok, loose.ok) == (False, True)
    assert strict.outputs == loose.outputs
    assert strict.outputs[0].relative > 1e-3
    assert loose.structure is not None
    assert len(loose.structure.payloads) == 4


def test_another_graph_is_never_ok(tmp_path: Path) -> None:
    model = net()
    a = save(model, tmp_path / "a.onnx")
    model.graph.node[2].op_type = "LeakyRelu"
    b = save(model, tmp_path / "b.onnx")
    assert not verify(a, b, same_function=False).ok
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    report = verify(a, save(model, tmp_path / "c.onnx"), same_function=False)
    assert not report.ok
    assert report.outputs == ()
    assert report.notes[0].startswith("outputs not compared: onnxruntime cannot")


def test_files_of_different_inputs_are_not_run(tmp_path: Path) -> None:
    model = net()
    a = save(model, tmp_path / "a.onnx")
    model.graph.input.add().CopyFrom(model.graph.input[0])
    model.graph.input[1].name = "mask"
    report = verify(a, save(model, tmp_path / "b.onnx"))
    assert not report.ok
    assert report.notes == ("outputs not compared: the two models take different inputs",)


def test_a_file_with_a_fixed_batch_against_a_free_one(tmp_path: Path) -> None:
    model = net()
    a = save(model, tmp_path / "a.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    report = verify(a, save(model, tmp_path / "b.onnx"))
    assert not report.ok
    assert report.outputs == (OutputError("y", 0.0, 0.0, 1.0, 1e-5),)


@pytest.mark.parametrize(
    ("batch", "size", "shapes"),
    [("n", 4, "[[4, 3, 8, 8]], [[1, 3, 8, 8]]"), ("n", 1, "[[1, 3, 8, 8]]"), ("4", 4, "[[4, 3, 8, 8]]")],
)
def test_example_inputs_for_files(tmp_path: Path, batch: str, size: int, shapes: str) -> None:
    a = save(net(batch=batch), tmp_path / "a.onnx")
    report = verify(a, a, torch.randn(size, 3, 8, 8))
    assert report.ok
    assert report.notes[0].endswith(f"on the given inputs of shapes {shapes}")


@pytest.mark.parametrize("swap", [False, True])
def test_a_module_against_a_file(tmp_path: Path, swap: bool) -> None:
    a = save(net(), tmp_path / "a.onnx")
    model = import_onnx(a).train()
    pair = (model, a) if swap else (a, model)
    report = verify(*pair)
    assert report.ok
    assert report.structure is None
    assert report.outputs[0].cosine == pytest.approx(1)
    assert "structure not compared: one is a module, the other a file" in report.notes
    assert not verify(a, nudged(model, 1e-3)).ok
    assert report.to_json()["structure"] is None


def test_float16_files_are_judged_by_their_precision(tmp_path: Path) -> None:
    a = save(net(raw(TensorProto.FLOAT16), "float16"), tmp_path / "a.onnx")
    report = verify(a, a)
    assert report.ok
    assert report.outputs[0].tolerance == 4 * torch.finfo(torch.float16).eps


IMAGES = """
<ir_version: 8, opset_import: ["" : 17]>
net (TYPE[n, 3, height, width] x, float[n, 1] scale) => (float[n, 3] y) {
    f = Cast <to = 1> (x)
    g = GlobalMaxPool (f)
    h = Flatten (g)
    y = Mul (h, scale)
}
"""


def test_free_image_size_several_inputs_and_bytes(tmp_path: Path) -> None:
    a = save(parser.parse_model(IMAGES.replace("TYPE", "uint8")), tmp_path / "a.onnx")
    assert "[[1, 3, 64, 64], [1, 1]], [[3, 3, 64, 64], [3, 1]]" in verify(a, a).notes[0]


def test_external_data_counts_as_file_size(tmp_path: Path) -> None:
    a = save_external(net(), tmp_path / "a.onnx")
    size = a.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert verify(a, a).file_sizes == (size, size)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([torch.randn(1, 3, 8, 8)] * 2, "a.onnx takes 1 inputs, not 2"),
        ([torch.randn(1, 5, 8, 8)], r"cannot run .* on inputs of shapes \[\[1, 5, 8, 8\]\]"),
    ],
)
def test_inputs_that_do_not_fit(tmp_path: Path, inputs: list[Tensor], message: str) -> None:
    a = save(net(), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=message) as caught:
        verify(a, a, inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", ["missing.onnx", "garbage.onnx"])
def test_files_that_are_not_there(tmp_path: Path, bad: str) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"\x80\x04garbage")
    a = save(net(), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=bad):
        verify(a, tmp_path / bad)


def test_onnxruntime_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = net()
    model.graph.initializer.append(typed(TensorProto.FLOAT)("unused", torch.ones(1)))  # ORT warns of it
    a = save(model, tmp_path / "a.onnx")
    assert verify(a, a).ok
    assert capfd.readouterr() == ("", "")
