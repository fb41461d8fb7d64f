"""A new ONNX file of a module: what it takes and gives is as asked for, and it computes what the module does."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from deployed import Free, Two, deploy
from nets import Plain, build, disturb, images
from onnx_models import save as save_proto
from torch import Tensor, nn
from wrong_files import assert_one_line

import reparam_kit as rk
from reparam_kit.algebra import NORMS
from reparam_kit.cli import main

SHAPE = {"x": (1, 3, 17, 17)}
OLD = 17  # written by the older exporter, which takes a tenth of the time


class Fixed(Free):
    """Takes one size of batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(2, 3 * 7 * 7)


class Flat(nn.Module):
    """Takes one size of image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 15 * 15, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.conv(x).flatten(1))
        return out


class Depends(Free):
    """Traced on one input, it is another function."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (3 if x.flatten()[0] > float(self.net[0].bias[0]) else 2)


class Looks(nn.Module):
    """Integers choose rows, and are what its second input is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.rows = nn.Conv2d(3, 4, 3), nn.Embedding(5, 4)

    def forward(self, image: Tensor, row: Tensor) -> dict[str, Tensor]:
        mean = self.conv(image).mean((2, 3))
        return {"sum": mean + self.rows(row), "mean": mean}


def dimensions(path: Path) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    graph = onnx.load(path).graph
    inputs, outputs = (
        {info.name: [d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim] for info in infos}
        for infos in (graph.input, graph.output)
    )
    return inputs, outputs


@pytest.mark.parametrize("opset", [OLD, 11, None])
def test_names_free_dimensions_and_opset_are_as_asked_for(
    opset: int | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, out = build(Free).train(), tmp_path / "out.onnx"
    axes = {"image": {0: "N", 2: "height"}}
    shapes = {"image": (1, 3, 16, 17)}
    done = rk.export_onnx(model, out, shapes=shapes, dynamic=axes, opset=opset, output_names=["map"])
    taken, given = dimensions(out)
    assert taken == {"image": ["N", 3, "height", 17]} == done.inputs
    assert list(given) == ["map"]
    assert given["map"][0] == "N"
    assert done.exporter == ("dynamo" if opset is None else "torchscript")
    assert onnx.load(out).opset_import[0].version == done.opset == (opset or done.opset)
    assert rk.verify(model, out, torch.randn(5, 3, 29, 17)).ok
    assert model.training
    assert list(tmp_path.iterdir()) == [out]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("norm", NORMS)
def test_what_is_expanded_is_folded_first(norm: str, tmp_path: Path) -> None:
    student = disturb(rk.expand(build(Plain), norm=norm, example_inputs=images()))
    done = rk.export_onnx(student, tmp_path / "out.onnx", example_inputs=images(), opset=OLD)
    assert done.folded > 0
    assert rk.verify(student.eval(), tmp_path / "out.onnx", images()).ok
    assert any(isinstance(part, rk.expand(nn.Conv2d(1, 1, 3)).__class__) for part in student.modules())


def test_a_restored_batch_norm_is_folded_first(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    student = disturb(rk.restore_bn(model, [images()])).eval()
    assert rk.export_onnx(student, tmp_path / "out.onnx", example_inputs=images(), opset=OLD).folded == 1
    assert rk.verify(student, tmp_path / "out.onnx", images()).ok


def test_a_model_that_came_from_a_file_is_taken_at_its_word(tmp_path: Path) -> None:
    like, out = deploy(build(Two), tmp_path / "like.onnx"), tmp_path / "out.onnx"
    student = disturb(rk.expand(rk.load(like))).eval()
    rk.export_onnx(student, out, opset=OLD)
    inputs, outputs = dimensions(out)
    assert (inputs, list(outputs)) == (dimensions(like)[0], list(dimensions(like)[1]))
    assert rk.verify(student, out, (torch.randn(3, 3, 17, 17), torch.randn(3, 5))).ok


def test_a_fixed_batch_is_freed(tmp_path: Path) -> None:
    like, out = deploy(build(Free), tmp_path / "like.onnx", free=()), tmp_path / "out.onnx"
    model = rk.load(like)
    rk.export_onnx(model, out, dynamic="batch", opset=OLD)
    assert next(iter(dimensions(out)[0].values()))[0] == "batch"
    assert rk.verify(model, out, images(7)).ok


@pytest.mark.parametrize(
    "says",
    [
        {"example_input_array": torch.randn(1, 3, 8, 9)},
        {"example_input_array": {"x": torch.randn(1, 3, 8, 9)}},
        {"pretrained_cfg": {"input_size": (3, 8, 9)}},
    ],
)
def test_sizes_that_the_model_knows(says: dict[str, Any], tmp_path: Path) -> None:
    model = build(Free)
    vars(model).update(says)
    done = rk.export_onnx(model, tmp_path / "out.onnx", opset=OLD)
    assert done.inputs == {"x": [1, 3, 8, 9]}


def test_inputs_go_by_the_names_of_forward(tmp_path: Path) -> None:
    given = {"code": (1, 5), "x": (1, 3, 9, 9)}
    done = rk.export_onnx(build(Two), tmp_path / "out.onnx", shapes=given, dynamic="n", opset=OLD)
    assert done.inputs == {"x": ["n", 3, 9, 9], "code": ["n", 5]}


def test_integers_and_outputs_by_name(tmp_path: Path) -> None:
    model = build(Looks).eval()
    given = {"image": images(2), "row": torch.tensor([4, 0])}
    done = rk.export_onnx(model, tmp_path / "out.onnx", example_inputs=given, dynamic="n", opset=OLD)
    assert list(done.outputs) == ["sum", "mean"]
    assert rk.verify(model, tmp_path / "out.onnx", (images(3), torch.tensor([1, 2, 3]))).ok


def test_names_that_exporters_refuse_or_that_the_graph_has(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    given = {"683": (1, 3, 9, 9)}
    rk.export_onnx(build(Free), out, shapes=given, opset=OLD, output_names=["net.3.weight"])
    assert [list(ends) for ends in dimensions(out)] == [["683"], ["net.3.weight"]]
    onnx.checker.check_model(out)
    again = rk.export_onnx(rk.load(out), tmp_path / "again.onnx", opset=OLD)
    assert [*again.inputs, *again.outputs] == ["683", "net.3.weight"]


def test_without_onnxscript_the_older_exporter_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert rk.export_onnx(build(Free), tmp_path / "out.onnx", shapes=SHAPE).exporter == "torchscript"


REFUSED: dict[str, tuple[type[nn.Module], dict[str, Any], str]] = {
    "no sizes": (Two, {"shapes": None}, r"input 'x' of the model and likewise of code.* \(--shape x=1,3,112,112\)"),
    "sizes that do not fit": (Free, {"shapes": {"x": (1, 5, 9, 9)}}, "does not run on inputs of shapes .*5 channels"),
    "sizes twice": (Free, {"example_inputs": images()}, "give one of them"),
    "with an original": (Free, {"like": "x.onnx"}, "those that like .*has; give them or like"),
    "no such input": (Free, {"dynamic": {"y": {0: "n"}}}, "there is no input 'y' .*known inputs: x"),
    "no such dimension": (Free, {"dynamic": {"x": {4: "n"}}}, "input 'x' has 4 dimensions, and none is number 4"),
    "no name": (Free, {"dynamic": "a batch"}, "cannot be called 'a batch'"),
    "several sizes": (Free, {"dynamic": {"x": {0: "n", 2: "n"}}}, "called 'n' are of several sizes"),
    "a batch of its own": (Fixed, {"dynamic": "n", "shapes": {"x": (2, 3, 9, 9)}}, "no other size of 'n' than 2"),
    "a size of its own": (Flat, {"dynamic": {"x": {2: "h"}}}, "no other size of 'h' than 17: leave it fixed"),
    "one name for two": (Free, {"output_names": ["x"]}, "not all different"),
    "too many names": (Free, {"output_names": ["a", "b"]}, "the model has 1 outputs, and names are given for 2: a, b"),
    "no such opset": (Free, {"opset": 99}, "99"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, choice, says = REFUSED[case]
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # the other exporter takes its time
    with pytest.raises(rk.InputError) as caught:
        rk.export_onnx(build(kind), tmp_path / "out.onnx", **{"shapes": SHAPE, "opset": OLD, **choice})
    assert_one_line(str(caught.value), says)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_text("as before")
    with pytest.raises(rk.VerificationError, match="computes something else, so nothing was written"):
        rk.export_onnx(build(Depends), tmp_path / "out.onnx", shapes=SHAPE, opset=OLD)
    assert (tmp_path / "out.onnx").read_text() == "as before"


def test_saving_a_module_says_how(tmp_path: Path) -> None:
    with pytest.raises(rk.InputError, match=r"reparam_kit.export_onnx\(.*reparam-kit export MODEL --shape"):
        rk.save(build(Free), tmp_path / "out.onnx")


def _run(command: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, command.split())
    assert result.exit_code == status, result.output
    return result.stderr


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    student = disturb(rk.expand(build(Free), include=["net.0"]))
    rk.save(student, "student.safetensors")
    said = _run(
        "export deployed:Free --weights student.safetensors -o out.onnx --opset 17 --shape x=1,3,9,9 "
        "--dynamic x:0=batch --dynamic x:3=width --output-name map"
    )
    first, second = said.splitlines()
    assert first == "folded first: 1 expanded layers or restored BatchNorms"
    assert "out.onnx: x [batch, 3, 9, width] -> map [batch, 3, 7, " in second
    assert "opset 17" in second
    assert rk.verify(student.eval(), "out.onnx", torch.randn(2, 3, 9, 12)).ok
    np.savez("in.npz", x=np.zeros((2, 3, 9, 9), np.float32))
    assert "x [n, 3, 9, 9]" in _run("export deployed:Free -o out.onnx --opset 17 --inputs in.npz --dynamic n")
    for wrong in ("--dynamic x:0=n --dynamic n", "--shape 1,3,9,9", "--opset 6"):
        assert_one_line(_run(f"export deployed:Free -o out.onnx {wrong}", 2), "Invalid value")
    save_proto(onnx.load("out.onnx"), tmp_path / "again.onnx")
    assert "x [n, 3, 9, 9]" in _run("export again.onnx -o more.onnx --opset 17")


def test_a_student_of_a_file_is_folded_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    deploy(build(Free), tmp_path / "like.onnx")
    student = disturb(rk.expand(rk.load("like.onnx")))
    rk.save(student, "student.pt")
    assert "folded first" in _run("export student.pt -o out.onnx --opset 11")
    assert rk.verify(deepcopy(student).eval(), "out.onnx", images(3)).ok
