"""Latency, and the report as text and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from onnx_models import net, raw, retrained, save

from reparam_kit.errors import InputError
from reparam_kit.onnx import import_onnx, write_back
from reparam_kit.onnx.latency import measure_latency
from reparam_kit.surgery import expand, fold
from reparam_kit.verification import Report, verify


def deep(layers: int) -> ModelProto:
    nodes = [
        helper.make_node("Conv", [f"t{i}", "w"], [f"t{i + 1}"], pads=[1, 1, 1, 1]) for i in range(layers)
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "deep",
            [helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["n", 16, 32, 32])],
            [helper.make_tensor_value_info(f"t{layers}", TensorProto.FLOAT, ["n", 16, 32, 32])],
            [raw(TensorProto.FLOAT)("w", torch.randn(16, 16, 3, 3) / 12)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def test_latency_is_median_and_spread_of_runs_in_turn(tmp_path: Path) -> None:
    one, three = save(deep(2), tmp_path / "one.onnx"), save(deep(6), tmp_path / "three.onnx")
    image = [torch.randn(1, 16, 32, 32)]
    slower, faster = measure_latency(one, three, image, 15), measure_latency(three, one, image, 15)
    assert 1.8 < slower.ratio < 5
    assert 1.8 < 1 / faster.ratio < 5
    assert (slower.told, faster.told) == ("slower by more than chance", "faster by more than chance")
    assert slower.a.low <= slower.a.median <= slower.a.high < slower.b.median
    assert slower.interval[0] <= slower.ratio <= slower.interval[1]
    report = verify(one, one, latency=True)
    assert report.latency is not None
    assert 0.5 < report.latency.ratio < 2


def test_of_runs_that_do_not_differ_nothing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A clock on which either file takes 1 to 1.2 ms, whichever it is."""
    ticks, now = np.random.default_rng(0).uniform(1, 1.2, 1000), [0.0]

    def clock() -> float:
        now.append(now[-1] + ticks[len(now)] / 1000)
        return now[-1]

    monkeypatch.setattr("reparam_kit.onnx.latency.time.perf_counter", clock)
    one = save(net(), tmp_path / "one.onnx")
    found = measure_latency(one, one, [torch.randn(1, 3, 8, 8)])
    assert found.told == "no difference that these runs could show"
    assert found.interval[0] < 1 < found.interval[1]
    assert 1.0 < found.a.low < found.a.median < found.a.high < 1.2
    assert "50 runs of each" in str(found)


def test_latency_is_of_files(tmp_path: Path) -> None:
    a = save(net(), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"between two \.onnx files"):
        verify(a, import_onnx(a), latency=True)


def test_text_and_json(tmp_path: Path) -> None:
    a = save(net(), tmp_path / "a.onnx")
    b = retrained(a, tmp_path / "b.onnx")
    text = str(verify(a, b)).splitlines()
    assert text[0] == "NOT equal"
    assert "same graph" in text
    assert any(line.startswith("output y: relative error") and "beyond 1.00e-05" in line for line in text)
    loose = verify(a, b, same_function=False, latency=True)
    assert str(loose).startswith("equal but for the weights\nsame graph\nweights that differ: 4")
    assert "1.00e-05" not in str(loose)
    assert "runs of each in turn" in str(loose)
    content = json.loads(json.dumps(loose.to_json(), allow_nan=False))
    assert content["ok"] is True
    assert content["structure"]["same_graph"] is True
    assert {"structure", "outputs", "notes", "file_sizes", "latency", "latency_ratio", "same_function"} < set(
        content
    )
    assert set(content["outputs"][0]) == {"name", "max_abs", "relative", "cosine", "tolerance"}


def test_of_a_module_and_a_file_only_the_outputs_are_told(tmp_path: Path) -> None:
    a = save(net(), tmp_path / "a.onnx")
    first, output, *notes = str(verify(a, import_onnx(a))).splitlines()
    assert first == "equal"
    assert output.startswith("output y: relative error")
    assert notes[1:] == ["structure not compared: one is a module, the other a file"]


def test_report_is_frozen() -> None:
    report = Report(None, (), (), same_function=True)
    with pytest.raises(AttributeError):
        report.notes = ("changed",)  # type: ignore[misc]


@pytest.mark.parametrize("name", ["mobilefacenet", "teacher_y1"])
def test_real_models(tmp_path: Path, shared_faces: Path, name: str) -> None:
    original = shared_faces / "models" / f"{name}.onnx"
    model = import_onnx(original)
    assert verify(model, original).ok
    write_back(fold(expand(model)), tmp_path / "folded.onnx")
    assert verify(original, tmp_path / "folded.onnx").ok
    student = expand(model)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01 * parameter.std(unbiased=False) * torch.randn_like(parameter))
    trained = verify(student, fold(student), torch.randn(2, 3, 112, 112))
    assert trained.ok, str(trained)
