"""From file to file by one call: what it writes, says, refuses, and goes on from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor

import reparam_kit as rk
from recipes.tsmr import Callback, EpochReport, Improved, Stage, TSMRConfig, improve

CONFIG = TSMRConfig(stages=(Stage(epochs=2, cosine=1.0),), batch_size=8, teacher_input="raw")


@pytest.fixture
def files(tmp_path: Path, rec: Path, deployed: tuple[Path, Path]) -> dict[str, Any]:
    student, teacher = deployed
    return {
        "student": student, "teachers": teacher, "data": rec, "output": tmp_path / "out.onnx", "config": CONFIG,
    }  # fmt: skip


def test_a_better_file_with_its_proof_and_its_page(
    files: dict[str, Any], bin_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    improved = improve(**files, val=bin_file)
    assert capfd.readouterr() == ("", "")
    assert rk.diff(files["student"], improved.output).same_graph
    assert improved.verification is not None
    assert improved.verification.structure.same_graph
    page = improved.page.read_text()
    assert improved.page == files["output"].with_name("out.onnx.html")
    assert ">student.onnx, " in page.replace("<wbr>", "")  # from where the page lies
    told = json.loads(json.dumps(improved.to_json()))
    assert told["kept"] == improved.report.kept
    assert told["comparisons"][0]["told"] == improved.report.comparisons[0].told
    assert (told["verification"]["latency"], told["sides"]) == (None, [])  # unless they are asked for


def test_every_file_of_a_run_is_named_with_its_sha256(files: dict[str, Any], bin_file: Path) -> None:
    improved = improve(**files, val=[bin_file, f"people:{files['data']}"], latency=True, show_images=True)
    subjects = [judged.subject for judged in improved.report.before]
    assert [side["subject"] for side in improved.to_json()["sides"]] == subjects
    assert "What changed sides" in improved.page.read_text()
    assert improved.card == files["output"].with_name("out.onnx.md")
    written, card = improved.page.read_text(), improved.card.read_text()
    parts = {
        "student": files["student"], "teacher": files["teachers"], "validation 1": bin_file,
        "validation 2": files["data"], "output": files["output"],
    }  # fmt: skip
    for file in improved.provenance.files:
        assert file.size is not None
        if file.part != "images":
            assert file.sha256 == hashlib.sha256(parts[file.part].read_bytes()).hexdigest()
            assert file.sha256 in written
            assert file.sha256 in card
    assert {file.part for file in improved.provenance.files} == {*parts, "images"}
    assert str(files["output"].parent) not in written + card
    assert "runs could show" in written or "more than chance: " in written


@pytest.mark.parametrize("ends", [False, True], ids=["half ends", "float ends"])
def test_what_is_judged_of_a_half_file_is_what_is_written(
    files: dict[str, Any], bin_file: Path, ends: bool
) -> None:
    half = convert_float_to_float16(onnx.load(files["student"]), keep_io_types=ends)
    onnx.save(half, files["student"])
    judged: list[dict[str, Tensor]] = []

    class Keep(Callback):
        def epoch(self, epoch: EpochReport, model: Any) -> None:
            judged.append(model.state_dict())

    improved = improve(**files, val=bin_file, callbacks=[Keep()])
    assert rk.diff(files["student"], improved.output).same_graph
    written = rk.load(improved.output).state_dict()
    for name, tensor in improved.model.state_dict().items():
        assert tensor.equal(written[name])
    assert all(tensor.half().float().equal(tensor) for state in judged for tensor in state.values())
    assert improved.verification is not None
    assert improved.verification.structure.payloads


def quantise(student: Path) -> tuple[Path, list[int]]:
    """An INT8 file of a student, and the shape of an image."""
    quantised = student.with_name("quantised.onnx")
    shape = [dim.dim_value for dim in onnx.load(student).graph.input[0].type.tensor_type.shape.dim]
    images = iter(np.random.default_rng(0).uniform(-1, 1, (4, 1, *shape[1:])).astype(np.float32))
    reader = SimpleNamespace(get_next=lambda: next(({"x": image} for image in images), None))
    quantize_static(student, quantised, reader)
    return quantised, shape


def test_a_quantised_file_is_judged_and_counted_as_it_is_written(
    files: dict[str, Any], bin_file: Path
) -> None:
    quantised, shape = quantise(files["student"])
    improved = improve(**files | {"student": quantised}, val=bin_file, float=files["student"])
    written, model = rk.load(improved.output), improved.model.cpu()
    x = torch.randn(3, *shape[1:])
    assert model(x).equal(written(x))
    old, new = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer if t.data_type in (3, 6)}
        for path in (quantised, improved.output)
    )
    assert improved.report.integers is not None
    assert improved.report.integers.changed == sum((old[name] != new[name]).sum() for name in old)
    assert str(improved.report.integers) in improved.page.read_text()


def test_scales_follow_where_they_are_told_to(files: dict[str, Any]) -> None:
    class Interrupt(Callback):
        def epoch(self, epoch: EpochReport, model: Any) -> None:
            raise KeyboardInterrupt

    quantised, shape = quantise(files["student"])
    given = files | {"student": quantised, "config": replace(CONFIG, lr=0.05)}
    with pytest.raises(KeyboardInterrupt):
        improve(**given, scales="weights", callbacks=[Interrupt()])
    with pytest.raises(rk.InputError, match="was written by a run with student"):
        improve(**given)
    improved = improve(**given, scales="weights")
    count = improved.report.integers
    assert count is not None
    assert 0 < count.rescaled <= count.scales
    assert count.clipped == 0
    assert f"{count.rescaled} of {count.scales} scales changed" in improved.page.read_text()
    assert "scales: weights" in improved.output.with_name("out.onnx.yaml").read_text()
    assert not rk.diff(quantised, improved.output).same_graph
    assert rk.diff(quantised, improved.output, scales="weights").scales
    x = torch.randn(3, *shape[1:])
    torch.testing.assert_close(improved.model(x), rk.load(improved.output)(x), rtol=1e-4, atol=1e-4)


def test_the_same_call_goes_on_after_an_interruption(files: dict[str, Any], tmp_path: Path) -> None:
    class Interrupt(Callback):
        def epoch(self, epoch: EpochReport, model: Any) -> None:
            raise KeyboardInterrupt

    class Left(Callback):
        epochs = 0

        def epoch(self, epoch: EpochReport, model: Any) -> None:
            self.epochs += 1

    whole = improve(**{**files, "output": tmp_path / "whole.onnx"})
    with pytest.raises(KeyboardInterrupt):
        improve(**files, callbacks=[Interrupt()])
    assert not files["output"].exists()
    left = Left()
    resumed: Improved = improve(**files, callbacks=[left])
    assert left.epochs == 1
    assert resumed.output.read_bytes() == whole.output.read_bytes()


def test_a_file_that_onnxruntime_does_not_run_is_improved_and_judged_by_its_graph(
    files: dict[str, Any], tmp_path: Path
) -> None:
    model = onnx.load(files["student"])
    model.ir_version = 99
    onnx.save(model, tmp_path / "newer.onnx")
    improved = improve(**{**files, "student": tmp_path / "newer.onnx"})
    assert improved.verification is not None
    assert improved.verification.structure.same_graph
    assert improved.verification.structure.payloads
    assert improved.verification.outputs == ()
    assert "outputs not compared: onnxruntime cannot load" in improved.page.read_text()


def test_a_net_is_trained_up_to_a_value_within_its_file(files: dict[str, Any], tmp_path: Path) -> None:
    model = onnx.load(files["student"])
    graph = model.graph
    embedding = graph.output[0].name
    graph.node.append(onnx.helper.make_node("TopK", [embedding, "most"], ["top", "places"]))
    graph.initializer.append(onnx.helper.make_tensor("most", onnx.TensorProto.INT64, [1], [2]))
    graph.output[0].name = "top"
    graph.output[0].type.tensor_type.ClearField("shape")
    student = tmp_path / "whole.onnx"
    onnx.save(model, student)
    improved = improve(**{**files, "student": student}, outputs=[embedding])
    assert improved.verification is not None
    assert improved.verification.structure.same_graph
    assert [output.name for output in improved.verification.outputs] == ["top"]
    assert onnx.load(improved.output).graph.node[-1].op_type == "TopK"


def test_the_written_file_is_run_on_images_of_the_data(files: dict[str, Any]) -> None:
    improved = improve(**files)
    assert improved.verification is not None
    assert "on the given inputs" in improved.verification.notes[0]


def test_a_run_has_its_file_and_its_page_whatever_comes_of_the_verification(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **options: object) -> None:
        raise rk.VerificationError("another graph")

    monkeypatch.setattr(rk, "verify", fails)
    with pytest.raises(rk.VerificationError):
        improve(**files)
    assert rk.diff(files["student"], files["output"]).same_graph
    assert files["output"].with_name("out.onnx.html").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"output": "student.onnx"}, "output .* and student .* are the same"),
        ({"report": "train.rec"}, "report .* and data .* are the same"),
        ({"work": "teacher.onnx"}, "work .* and teachers .* are the same"),
        ({"output": "nowhere/out.onnx"}, "nowhere"),
        ({"report": "nowhere/page.html"}, "nowhere"),
    ],
)
def test_what_cannot_end_well_is_refused_first(
    files: dict[str, Any], rec: Path, tmp_path: Path, changed: dict[str, str], says: str
) -> None:
    places = {name: rec if path == rec.name else tmp_path / path for name, path in changed.items()}
    before = {path: path.read_bytes() for path in (files["student"], files["teachers"], rec)}
    with pytest.raises(rk.InputError, match=says):
        improve(**{**files, **places})
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "out.onnx.work").exists()
