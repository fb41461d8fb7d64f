"""What INT8 costs, found by onnxruntime's own quantiser on images: against a naive one, and what users may give."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import parser
from onnx_models import RAW, save
from plugs import install
from torch import Tensor

from reparam_kit.cli import main
from reparam_kit.errors import InputError
from reparam_kit.verification import verify
from reparam_kit.verification.int8 import quantised_runs

CONV = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,8,8] x) => (float[N,4,6,6] y) { y = Conv (x, w) }"""
IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def conv(path: Path, widest: float = 1.0, text: str = CONV) -> Path:
    """A convolution, the first channel of which is so many times as wide as the others."""
    model = parser.parse_model(text)
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[0] *= widest
    model.graph.initializer.append(RAW("w", weight))
    return save(model, path)


def naive(weight: Tensor, by_channel: bool, seen: Tensor, judged: Tensor) -> float:
    """The error of one convolution whose input, weight and output are rounded to eight bits."""

    def rounded(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        low, high = low.clamp_max(0), high.clamp_min(0)
        scale = (high - low) / 255
        zero = (-low / scale).round()
        return ((x / scale + zero).round().clamp(0, 255) - zero) * scale

    ranges = weight.abs().amax((1, 2, 3), keepdim=True) if by_channel else weight.abs().max()
    scale = 2 * ranges / 255
    kernel = (weight / scale).round().clamp(-127, 127) * scale
    plain = torch.conv2d(seen, weight)
    found = rounded(torch.conv2d(rounded(judged, seen.min(), seen.max()), kernel), plain.min(), plain.max())
    wanted = torch.conv2d(judged, weight)
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("widest", [1.0, 30.0])
def test_the_error_is_that_of_rounding_to_eight_bits(tmp_path: Path, widest: float) -> None:
    path = conv(tmp_path / "a.onnx", widest)
    weight = torch.from_numpy(onnx.numpy_helper.to_array(onnx.load(path).graph.initializer[0]).copy())
    runs = quantised_runs(path, path, [IMAGES])
    assert [(run.by_channel, run.calibrated, run.run) for run in runs] == [(False, 20, 20), (True, 20, 20)]
    for run in runs:
        expected = naive(weight, run.by_channel, IMAGES[::2], IMAGES[1::2])
        assert run.outputs[0].error[0] == run.outputs[0].error[1] == pytest.approx(expected, rel=0.3)


def test_a_wide_channel_costs_where_there_is_one_scale(tmp_path: Path) -> None:
    """Each file is held against itself: ``a`` is even, ``b`` is not."""
    a, b = conv(tmp_path / "a.onnx"), conv(tmp_path / "b.onnx", 30.0)
    report = verify(a, b, same_function=False, calibration=IMAGES)
    assert report.quantisation is not None
    per_tensor, per_channel = report.quantisation.runs
    assert per_tensor.outputs[0].cosine[0] > 0.999
    lines = [line for line in str(report).splitlines() if line.startswith("in INT8 by onnxruntime")]
    assert [line.partition(":")[0] for line in lines] == [
        "in INT8 by onnxruntime, per tensor (20 images calibrated, 20 run)",
        "in INT8 by onnxruntime, per channel (20 images calibrated, 20 run)",
    ]
    assert len(report.to_json()["quantisation"]["runs"]) == 2
    assert per_channel.outputs[0].cosine[1] >= per_tensor.outputs[0].cosine[1]


OLD = CONV.replace("17", "11").replace("ir_version: 8", "ir_version: 6")
FIXED = CONV.replace("[N,", "[3,")


@pytest.mark.parametrize("text", [OLD, FIXED], ids=["opset 11", "batch of three"])
def test_files_as_they_are(tmp_path: Path, text: str) -> None:
    """Opset 11 knows no scales by channel; a batch that is fixed is filled up."""
    path = conv(tmp_path / "a.onnx", text=text)
    for run in quantised_runs(path, path, [IMAGES[:7]]):
        assert run.outputs[0].cosine[0] > 0.99


QUANTISED = """<ir_version: 8, opset_import: ["" : 17]>
net (float[N,3,8,8] x) => (float[N,3,8,8] y) <float s = {0.1}, uint8 z = {128}>
{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }"""
BARE = """<ir_version: 8, opset_import: ["" : 17]> net (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Sin (x) }"""


@pytest.mark.parametrize(
    ("text", "given", "said"),
    [
        (QUANTISED, IMAGES, "a.onnx is quantised already"),
        (BARE, IMAGES, "finds nothing to quantise in .*a.onnx"),
        (CONV, IMAGES[:, :2], "cannot run .*a.onnx on inputs of shapes"),
    ],
    ids=["quantised", "nothing", "other channels"],
)
def test_what_cannot_be_tried_is_a_note(tmp_path: Path, text: str, given: Tensor, said: str) -> None:
    path = conv(tmp_path / "a.onnx", text=text)
    with pytest.raises(InputError, match=said):
        quantised_runs(path, path, [given])
    report = verify(path, path, calibration=given)
    assert report.ok
    assert any(note.startswith("INT8 not tried: ") for note in report.notes)


def test_modules_have_no_quantiser() -> None:
    with pytest.raises(InputError, match=r"takes two \.onnx files"):
        verify(torch.nn.Identity(), torch.nn.Identity(), calibration=IMAGES)


def test_nothing_is_printed_or_left_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The quantiser advises its users in lines of the root logger."""
    path = conv(tmp_path / "a.onnx")
    quantised_runs(path, path, [IMAGES[:2]])
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that reads images."""
    code = "import torch\ndef read(path, preset, most):\n    return torch.ones(4, 3, 8, 8) * float(preset)\n"
    install(tmp_path, b"[reparam_kit.images]\nplug = plug.cli:read\n", code)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "plug"]:
        del sys.modules[name]  # other tests have a package of that name, too


@pytest.mark.usefixtures("reader")
def test_the_command_reads_arrays_and_images(tmp_path: Path) -> None:
    path = str(conv(tmp_path / "a.onnx"))
    np.savez(tmp_path / "x.npz", x=IMAGES.numpy())
    arrays = CliRunner().invoke(main, ["verify", path, path, "--calibration", str(tmp_path / "x.npz")])
    assert (arrays.exit_code, "(20 images calibrated, 20 run)" in arrays.stdout) == (0, True)
    found = CliRunner().invoke(main, ["verify", path, path, "--calibration", "faces.rec", "--input", "2"])
    assert (found.exit_code, "(2 images calibrated, 2 run)" in found.stdout) == (0, True)
