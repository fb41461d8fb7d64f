"""No command opens what is no regular file, or lets a model name a file outside its own folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from wrong_files import assert_one_line

from reparam_kit.cli import main

NEEDED = "--student-input raw --teacher-input raw --epochs 1 --batch-size 4 -o out.onnx"
# Where a command names a file that it reads: the suffixes that lead to different readers, and the command.
READS = {
    "inspect {}": ".onnx .pt",
    "inspect factories:net --weights {}": ".pt .safetensors",
    "expand {} -o out.pt": ".onnx .pt",
    "fold {} -o out.onnx": ".pt",
    "verify {} net.onnx": ".onnx",
    "verify net.onnx {}": ".onnx",
    "verify net.onnx net.onnx --inputs {}": ".npz",
    "verify net.onnx net.onnx --calibration {}": ".npz",
    "diff {} net.onnx": ".onnx",
    "diff net.onnx {}": ".onnx",
    "export {} -o out.onnx --like net.onnx": ".onnx .pt",
    "export factories:net -o out.onnx --like {}": ".onnx",
    "export factories:net -o out.onnx --like net.onnx --inputs {}": ".npz",
    "evaluate {} --input raw --pairs pairs.bin --folds 2": ".onnx .pt",
    f"tsmr {{}} --teacher teacher.onnx --data faces.rec {NEEDED}": ".onnx .pt",
    f"tsmr face.onnx --teacher {{}} --data faces.rec {NEEDED}": ".onnx .pt",
    "evaluate face.onnx --input raw --folds 2 --pairs {}": ".bin .txt",
    f"tsmr face.onnx --teacher teacher.onnx --data {{}} {NEEDED}": ".rec .txt",
    f"tsmr face.onnx --teacher teacher.onnx --data faces.rec --val {{}} {NEEDED}": ".bin .txt",
    f"tsmr face.onnx --teacher teacher.onnx --data faces.rec --config {{}} {NEEDED}": ".json",
}
CASES = [(command, suffix) for command, suffixes in READS.items() for suffix in suffixes.split()]
MODELS = [command for command, suffixes in READS.items() if ".onnx" in suffixes]


class Hangs(BaseException):
    """Not an error that a command would catch."""


@contextmanager
def seconds(most: int) -> Iterator[None]:
    def stop(*args: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(most)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refusal(command: str, path: Path, w: Path) -> str:
    words = command.format(path).split()
    words = [str(w / word) if (w / word).is_file() else word for word in words]
    with seconds(5):
        result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    assert_one_line(result.stderr, str(path))
    return result.stderr


@pytest.mark.parametrize(("command", "suffix"), CASES)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_regular_file_is_not_opened(
    command: str, suffix: str, kind: str, w: Path, here: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"{kind}{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    assert "device, a pipe or a socket" in refusal(command, path, w)


def model_outside(path: Path, location: str, offset: int = 0) -> None:
    """A model that takes what all the commands' models take, with its weight at ``location``."""
    weight = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4, 3, 3, 3], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", str(offset)), ("length", "432")):
        weight.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Flatten", ["c"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 144])]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("command", MODELS)
@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("../secret.bin", "outside its own folder"),
        ("sub/../../secret.bin", "outside its own folder"),
        ("{folder}/beside.bin", "outside its own folder"),
        ("/dev/zero", "outside its own folder"),
        ("link.bin", "outside its own folder"),
        ("a\0b", "outside its own folder"),
        ("pipe.bin", "is a device, a pipe or a socket"),
        (".", "is a folder"),
        ("gone.bin", "no such file"),
        ("short.bin", "truncated, or belongs to another model"),
        ("sparse.bin", "one of the two is not what it should be"),
    ],
)
def test_tensors_lie_beside_the_model(
    command: str, location: str, says: str, w: Path, here: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    weight = np.ones(108, np.float32).tobytes()
    (tmp_path / "secret.bin").write_bytes(weight)
    (folder / "beside.bin").write_bytes(weight)
    (folder / "short.bin").write_bytes(weight[:-1])
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    os.mkfifo(folder / "pipe.bin")
    with (folder / "sparse.bin").open("wb") as file:
        file.truncate(200 << 30)
    model_outside(folder / "model.onnx", location.format(folder=folder))
    words = command.format(folder / "model.onnx").split()
    words = [str(w / word) if (w / word).is_file() else word for word in words]
    with seconds(5):
        result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    assert_one_line(result.stderr, says)


def test_a_model_with_its_tensors_beside_it_is_read(w: Path, here: Path, tmp_path: Path) -> None:
    (tmp_path / "beside.bin").write_bytes(np.ones(108, np.float32).tobytes())
    model_outside(tmp_path / "model.onnx", "beside.bin")
    model = str(tmp_path / "model.onnx")
    for words in (
        ["inspect", model],
        ["verify", model, model],
        ["evaluate", model, "--input", "raw", "--pairs", str(w / "pairs.bin"), "--folds", "2"],
    ):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
