"""Files of other kinds: each is named in one line that says the way out, wherever a model is wanted, and never run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from nets import Plain, build, images
from onnx_text import SMALL, SMALL_WEIGHTS, write
from torch import Tensor, nn
from torch.package import PackageExporter
from wrong_files import assert_one_line

import reparam_kit as rk
from reparam_kit.cli import main
from reparam_kit.kinds import KINDS, ONNX, TENSORS, TORCH, kind_of


def _small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()


def _script(path: Path) -> None:
    torch.jit.trace(_small(), images(2)).save(path)


def _lite(path: Path) -> None:
    torch.jit.trace(_small(), images(2))._save_for_lite_interpreter(str(path))


def _program(path: Path) -> None:
    torch.export.save(torch.export.export(_small(), (images(2),)), path)


def _package(path: Path) -> None:
    with PackageExporter(path) as package:
        package.extern("**")
        package.save_pickle("net", "net.pkl", nn.Conv2d(3, 4, 3))


def _zipped(*names: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "content")

    return make


def _bytes(content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "script.pt": (_script, "is a TorchScript program, .*torch.jit.load"),
    "lite.ptl": (_lite, "is a TorchScript program, .*torch.jit.load"),
    "program.pt2": (_program, r"is a program of torch.export, .*torch.export.load\(FILE\)"),
    "old.pt2": (_zipped("serialized_exported_program.json", "version"), "is a program of torch.export"),
    "compiled.pt2": (_zipped("c/data/aotinductor/m/a.so", "c/archive_format"), "is compiled by AOTInductor"),
    "package.pt": (_package, "is a torch.package, which carries code.*PackageImporter"),
    "net.keras": (_zipped("config.json", "model.weights.h5"), "is a Keras model.*format='onnx'"),
    "weights.h5": (_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is an HDF5 file, as Keras writes"),
    "net.tflite": (_bytes(b"\x1c\0\0\0TFL3" + bytes(99)), "is a TFLite model.*tf2onnx.convert --tflite"),
    "net.pb": (_bytes(b"\n\x09\n\x01x\x12\x04Plac"), "is, by its name, a TensorFlow graph.*--graphdef"),
    "net.ort": (
        _bytes(b"\x20\0\0\0ORTM" + bytes(99)),
        "is an .ort of onnxruntime.*the .onnx that it was made of",
    ),
    "net.pte": (_bytes(b"\x20\0\0\0ET12" + bytes(99)), "is an ExecuTorch program"),
    "net.xml": (_bytes(b'<?xml version="1.0"?>\n<net name="x">'), "is, by its name, an OpenVINO model"),
    "net.engine": (_bytes(b"ftrt" + bytes(99)), "is, by its name, a TensorRT engine"),
    "net.mlmodel": (_bytes(b"\x08\x04" + bytes(99)), "is, by its name, a Core ML model"),
    "net.param": (_bytes(b"7767517\n3 3\n"), "is an ncnn model"),
    "net.mnn": (_bytes(bytes(99)), "is, by its name, an MNN model"),
    "net.rknn": (_bytes(b"RKNN" + bytes(99)), "is, by its name, an RKNN model"),
    "net.pdmodel": (_bytes(bytes(99)), "is, by its name, a Paddle model.*paddle2onnx"),
    "net.gguf": (_bytes(b"GGUF\3\0\0\0"), "is a GGUF file, which holds the weights of a language model"),
    "net.npz": (lambda path: np.savez(path, x=np.zeros(3)), "holds numpy arrays and no net"),
    "net.npy": (lambda path: np.save(path, np.zeros(3)), "holds numpy arrays and no net"),
    "pointer.pt": (
        _bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "is a pointer of Git LFS, not the file itself: .*git lfs pull",
    ),
    "page.pt": (_bytes(b"<!DOCTYPE html>\n<html><head>"), "is a web page, not the file"),
    "net.pt.gz": (_bytes(b"\x1f\x8b\x08" + bytes(99)), "is compressed: unpack it first"),
    "net.tar": (_bytes(bytes(257) + b"ustar\x0000"), "is a tar archive: unpack it first"),
    "net.zip": (_zipped("readme.txt"), "is an archive of something else"),
    "net.py": (_bytes(b"def net(): ..."), "is Python code: .*as module:function"),
}
# What the sentence says is made by another program than torch, or of what is told by its content alone.
TELLS_ITSELF = {"script.pt", "program.pt2", "package.pt", "net.tflite", "weights.h5", "pointer.pt", "page.pt"}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (make, _) in FILES.items():
            make(folder / name)
    write(folder / "net.onnx", SMALL, SMALL_WEIGHTS)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_named_as_a_model_and_as_weights(name: str, kinds: Path) -> None:
    for load in (lambda: rk.load(kinds / name), lambda: rk.load("nets:Plain", weights=kinds / name)):
        with pytest.raises(rk.InputError) as caught:
            load()
        assert_one_line(str(caught.value), f"{name} {FILES[name][1]}")


@pytest.mark.parametrize("name", sorted(TELLS_ITSELF))
@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
def test_content_tells_where_the_name_says_something_else(
    name: str, suffix: str, kinds: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes((kinds / name).read_bytes())
    with pytest.raises(rk.InputError) as caught:
        rk.load(path) if suffix == ".onnx" else rk.load("nets:Plain", weights=path)
    assert_one_line(str(caught.value), f"{path.name} {FILES[name][1]}")


COMMANDS = (
    "inspect {}",
    "inspect {} --unsafe-load",
    "inspect nets:Plain --weights {}",
    "expand {} -o out.pt",
    "fold {} -o out.onnx",
    "export {} -o out.onnx --like net.onnx",
    "export nets:Plain -o out.onnx --like {}",
    "verify {} net.onnx",
    "verify net.onnx {}",
    "diff {} net.onnx",
    "evaluate {} --input raw --pairs pairs.bin",
    "tsmr {} --teacher net.onnx --data {} --student-input raw --teacher-input raw -o out.onnx",
)


@pytest.mark.parametrize("name", ["script.pt", "program.pt2", "package.pt", "net.tflite"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_so(command: str, name: str, kinds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kinds)
    result = CliRunner().invoke(main, command.replace("{}", name).split())
    assert result.exit_code == 2, result.output
    assert_one_line(result.stderr, f"{name} {FILES[name][1]}")
    assert not (kinds / "out.onnx").exists()


@pytest.mark.parametrize("entry", ["saved_model.pb", "Manifest.json"])
def test_a_folder_that_is_a_model(entry: str, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / entry).touch()
    with pytest.raises(
        rk.InputError, match=r"net is a (SavedModel of TensorFlow: write|Core ML model: start)"
    ):
        rk.load(tmp_path / "net")


def test_what_is_read_is_not_taken_for_another_kind(tmp_path: Path) -> None:
    net = build(Plain)
    for name, kind in {"net.pt": TORCH, "net.safetensors": TENSORS}.items():
        rk.save(net, tmp_path / name)
        assert kind_of(name, (tmp_path / name).read_bytes()) is kind
    torch.save(net.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert kind_of("old.engine", (tmp_path / "old.pt").read_bytes()) is TORCH
    write(tmp_path / "net.onnx", SMALL, SMALL_WEIGHTS)
    assert kind_of("net.onnx", (tmp_path / "net.onnx").read_bytes()) is ONNX


@pytest.mark.parametrize("cut", [4, 40, -30])
def test_a_damaged_archive_is_of_no_kind(cut: int) -> None:
    content = BytesIO()
    torch.save({}, content)
    assert kind_of("x.pt", content.getvalue()[:cut]) is None


@pytest.mark.filterwarnings("ignore")  # of torch's exporters
@pytest.mark.parametrize("name", ["script.pt", "program.pt2"])
def test_the_way_out_leads_to_the_same_function(name: str, kinds: Path, tmp_path: Path) -> None:
    said = next(kind.says for kind in KINDS if kind is kind_of(name, (kinds / name).read_bytes()))
    call = said[said.index("torch.onnx.export(") :].split(" and go on")[0]
    x = images(2)
    names = {"FILE": kinds / name, "inputs": x, "torch": torch}
    exec(call.replace("'model.onnx'", f"{str(tmp_path / 'model.onnx')!r}"), names)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    expected: Tensor = _small()(x)
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)
    rk.load(tmp_path / "model.onnx")


class Greets(nn.Module):
    """TorchScript that is run when it is loaded: the reason why it never is."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> bool:
        return self.training

    @torch.jit.export
    def __setstate__(self, state: bool) -> None:
        self.training = state
        print("run by being read")

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_script_is_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.jit.script(Greets()).save(tmp_path / "greets.pt")
    for unsafe in (False, True):
        with pytest.raises(rk.InputError, match="TorchScript"):
            rk.load(tmp_path / "greets.pt", unsafe=unsafe)
    assert "run by" not in capfd.readouterr().out
    torch.jit.load(tmp_path / "greets.pt")
    assert "run by being read" in capfd.readouterr().out
