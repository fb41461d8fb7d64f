"""What users get wrong on the command line: each takes one clear line that names what and where, and leaves no file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from wrong_files import assert_one_line

from recipes.tsmr.training.trainer import Trainer
from reparam_kit.cli import main


def run(command: str, w: Path) -> Result:
    return CliRunner().invoke(main, command.format(w=w).split())


TSMR = "tsmr {w}/face.onnx --student-input raw --teacher-input raw -o out.onnx --epochs 1 --batch-size 4 "
ROOT = Path(__file__).parents[2]
IN_ONNX = {
    "nowhere.onnx": "nowhere.onnx: no such file",
    "{w}/folder.onnx": "folder.onnx is a folder; name a .onnx",
    "{w}/empty.onnx": "empty.onnx is not an ONNX model: it has no graph",
    "{w}/truncated.onnx": "truncated.onnx is not an ONNX model, or is truncated",
    "{w}/text.onnx": "text.onnx is not an ONNX model",
    "{w}/operator.onnx": r"operator.onnx: node 'y' \(Frobnicate\): there is no importer",
    "{w}/attribute.onnx": r"node 'y' \(Conv\): auto_pad = 'SAME_DIAGONAL' is not supported",
    "{w}/old.onnx": "opset 5 is not one of .* convert the file",
    "{w}/new.onnx": "opset 99 is not one of",
    "{w}/undefined.onnx": r"node 'y' \(Conv\): nothing before it computes 'nowhere'",
    "{w}/lost.onnx": "lost.data: no such file",
    "{w}/escape.onnx": "keeps tensors in '../secret.data', outside its own folder",
    "{w}/short.onnx": r"short.onnx: tensor 'w' of shape \[4, 3, 3, 3\] is damaged",
    "{w}/state.pt": "state.pt holds a .*Dict, not a model",
    "{w}/bomb.pt": "bomb.pt holds pickled Python objects, and reading them runs code",
    "{w}/empty.pt": "empty.pt is not a file that torch.save wrote; the names of other kinds end in .onnx or",
    "{w}/plain.safetensors": "plain.safetensors holds weights and no net: name the net, a .onnx or",
    "{w}/text.pt": "text.pt is not a file that torch.save wrote",
    "{w}/truncated.pt": "truncated.pt is damaged or truncated",
    "factories:nett": "factories:nett: cannot import the factory: .* no attribute 'nett'",
    "factorys:net": "factorys:net: cannot import the factory: No module named 'factorys'",
    "factories:number": r"factories:number\(\) gave a int",
    "factories:net --weights nowhere.safetensors": "nowhere.safetensors: no such file",
    "factories:net --weights {w}/plain.safetensors": "plain.safetensors does not fit factories:net",
    "factories:net --weights {w}/truncated.safetensors": "is not a safetensors file, or is truncated",
    "factories:net --weights {w}/state.pt": "state.pt does not fit factories:net: missing: ",
    "factories:net --weights {w}/two.pt": r"two.pt does not fit factories:net \('model'",
    "factories:net(3)": r"factories:net\(3\): too many positional arguments: .* arguments are \(\)",
    "factories:net(depth=net)": r"factories:net\(depth=net\): net is no literal, and nothing is evaluated",
    "factories:net --weights {w}/bomb.pt": "bomb.pt holds pickled objects besides tensors",
    "{w}/net.onnx --weights {w}/state.pt": "state.pt does not fit .*net.onnx .*missing: ",
    "{w}/student.pt --weights {w}/state.pt": r"weights \(--weights\) go with package.module:factory or a .onnx",
    "{w}/net.onnx --block ddb": "there is no block 'ddb' .*: did you mean 'dbb'",
    "{w}/net.onnx --block conv(": "column 6: the expression ends too early",
    "{w}/net.onnx --block conv(k)+blurr": "column 9: there is no factor 'blurr'",
    "{w}/net.onnx --block conv(0)": "conv: sizes and options are positive numbers",
    "{w}/net.onnx --norm layer": "there is no norm 'layer' .*: known names: scale, batch, none",
    "{w}/net.onnx --include zzz": "include='zzz' matches no layer",
    "{w}/net.onnx --exclude zzz": "exclude='zzz' matches no layer",
    "{w}/net.onnx --input-shape 1x5x8x8": "does not run on the example inputs: .*got 5 channels",
    "{w}/net.onnx --input-shape 1x3xA": "write a shape as 16x3x224x224",
    "{w}/net.onnx --blok dbb": r"No such option.*--blok.*--block.*\(see .*inspect --help\)",
    "{w}/net.onnx --budget cheap": "'cheap' is not a valid float",
    "{w}/bomb_zip.pt": "bomb_zip.pt would unpack to",
    "{w}/net.onnx --budget 1.5": "budget=1.5 .* needs example_inputs",
    "{w}/net.onnx --budget 0.5 --input-shape 1x3x8x8": "budget=0.5 .* above 1",
}
OUT = {
    "expand {w}/relu.onnx -o out.pt": (3, "the model has no convolution"),
    "expand factories:linear -o out.pt": (3, "linear layer: expanded where include names it"),
    "expand {w}/net.onnx -o out.pt --block conv(9)": (3, "spans 9x9 taps, the site has 3x3"),
    "expand {w}/student.pt -o out.pt": (3, "it is expanded already"),
    "expand {w}/net.onnx -o out.txt": (2, "out.txt: the suffix says what is written"),
    "expand {w}/net.onnx -o out.onnx": (2, "fold it first"),
    "expand {w}/net.onnx -o nowhere/out.pt": (2, "the folder nowhere does not exist; create it"),
    "fold {w}/net.onnx -o out.onnx": (3, "no expanded convolution: expand it first"),
    "fold {w}/state.pt -o out.onnx": (2, "not a model; for a state_dict"),
    "fold {w}/student.pt -o nowhere/out.onnx": (2, "the folder nowhere does not exist"),
    "fold {w}/student.pt -o {w}/folder.onnx": (2, "it is a folder; name a file in it"),
    "verify {w}/net.onnx nowhere.onnx": (2, "nowhere.onnx: no such file"),
    "verify {w}/net.onnx factories:net": (2, "'B': factories:net is no .onnx file; to compare two modules"),
    "verify {w}/net.onnx {w}/truncated.onnx": (2, "truncated.onnx is not an ONNX model"),
    "verify {w}/net.onnx {w}/net.onnx --shape 1,3": (2, "1,3: write a shape as x=1,3,24,94"),
    "verify {w}/net.onnx {w}/net.onnx --shape y=1,3": (2, "a shape is given for 'y', which is no input"),
    "verify {w}/net.onnx {w}/net.onnx --calibration {w}/faces.rec": (
        2,
        "--input is required with --calibration .*faces.rec: what .*net.onnx expects of images",
    ),
    "verify {w}/net.onnx {w}/net.onnx --input raw": (2, "--input says what A expects of the images of"),
    "diff {w}/net.onnx {w}/empty.onnx": (2, "empty.onnx is not an ONNX model"),
    "diff {w}/net.onnx {w}/state.pt": (2, "state.pt is no .onnx file; to compare two modules"),
    "export factories:net -o out.onnx --like nowhere.onnx": (2, "nowhere.onnx: no such file"),
    "export factories:net -o out.onnx --like {w}/net.onnx": (
        1,
        "graph is not that of .*net.onnx, so nothing",
    ),
    "export factories:net -o out.onnx": (2, "say the sizes of the input 'input' .*--shape input=1,3,112,112"),
    "export factories:net -o out.onnx --shape input=1,3,8": (2, "does not run on inputs of shapes"),
    "export factories:net -o out.onnx --shape 1,3,8,8": (2, "1,3,8,8: write a shape as x=1,3,24,94"),
    "export factories:net -o out.onnx --shape input=1,3,8,8 --dynamic x=n": (
        2,
        "write --dynamic batch alone",
    ),
    "export factories:net -o out.onnx --like {w}/net.onnx --opset 17": (
        2,
        "those that like .*has; give them or",
    ),
    "export factories:net -o out.onnx --like {w}/tiny.onnx --inputs nowhere.npz": (
        2,
        "nowhere.npz: no such file",
    ),
    TSMR.replace("face.onnx", "nan_teacher.onnx") + "--teacher {w}/teacher.onnx --data {w}/faces.rec": (
        2,
        "the deployed model's embedding of training image 0 is zero or not finite",
    ),
    "export factories:net -o out.onnx --like {w}/tiny.onnx --inputs {w}/text.npz": (
        2,
        "text.npz is not a .npz",
    ),
    "export factories:net -o out.onnx --like {w}/net.onnx --inputs {w}/name.npz": (
        2,
        "name.npz has no array 'x'",
    ),
    "demo -o {w}/nobody": (2, "nobody is not empty and holds no earlier demo"),
    "demo -o {w}/d --seed -1": (2, "-1 is not in the range 0<=x<="),
    "demo -o {w}/faces.rec": (2, "faces.rec is a file; name a folder with -o"),
    "inspekt {w}/net.onnx": (2, "No such command 'inspekt'"),
    "expand {w}/net.onnx": (2, "Missing option '-o'"),
    "fold": (2, "Missing argument 'EXPANDED'"),
    "expand factories:net -o {w}/pipe.pt": (2, "pipe.pt cannot be written: it is a device or a pipe"),
}
PAIRS = {
    "nowhere.bin": "nowhere.bin: no such file",
    "{w}/empty.bin": "empty.bin is cut short or is not a pickle",
    "{w}/truncated.bin": "truncated.bin is cut short",
    "{w}/bomb.bin": "names '.*Path.touch', which no verification set needs; it was not run",
    "{w}/number.bin": "number.bin is cut short or is not a pickle of",
    "{w}/odd.bin": "odd.bin: 3 images do not make 2 pairs",
    "{w}/none.bin": "none.bin: 0 images do not make 0 pairs",
    "{w}/picture.bin --folds 2": "picture.bin: image 0 of pair 0 is not a JPEG, PNG",
    "{w}/genuine.bin --folds 2": "need genuine and impostor pairs; of 8 pairs 8 are genuine",
    "{w}/large.bin --folds 2": r"face.onnx takes images of 8 x 8 pixels .*, and these are 16 x 16: align",
    "{w}/sizes.bin --folds 2": "images of the sizes .* cannot be one set",
    "{w}/pairs.txt": "pairs.txt:1 is not `path path 0/1`",
    "{w}/nobody": "nobody is no folder of a verification set",
    "{w}/pairs.bin --folds 50": "8 pairs cannot be cut into 50 folds",
    "{w}/pairs.bin --images {w}": "pairs.bin holds its images: leave out the image folder",
    "{w}/pairs.bin --detector-score": "pairs.bin is no IJB set",
    "{w}/pairs.bin --roc out.pdf": "out.pdf: the suffix says what is written; choose .svg or .png",
    "{w}/pairs.bin --weights {w}/state.pt": "--weights is for package.module:factory",
    "{w}/pairs.bin --input raw": "2 times --input for 1 models",
    "{w}/pairs.bin --embedding a --embedding b": "2 times --embedding for 1 models",
    "{w}/pairs.bin --folds 2 --embedding feature": "face.onnx has no output 'feature': known outputs: ",
}
EVALUATE = {
    "{w}/face.onnx": "--input is required and has no default",
    "{w}/face.onnx --input rgb": "there is no input preset 'rgb'",
    "{w}/face.onnx --input imagenet,bgr": "there is no input preset 'imagenet,bgr': did you mean 'imagenet-bgr'",
    "{w}/face.onnx --input x/0": "the input 'x/0' is no formula: it divides by zero",
    "{w}/face.onnx {w}/face.onnx --input raw": "a model is named twice",
    "nowhere.onnx --input raw --folds 2": "nowhere.onnx: no such file",
    "{w}/text.onnx --input raw --folds 2": "text.onnx is not an ONNX model",
    "{w}/relu.onnx --input raw --folds 2": r"relu.onnx takes x .* a face net takes one float32",
    "{w}/nan_teacher.onnx --input raw --folds 2": "an embedding that is zero or not finite",
    "factories:linear --input raw --folds 2": r"the model fails on images \[16, 3, 8, 8\]: mat1 and mat2",
    "{w}/state.pt --input raw --folds 2": "state.pt holds a .*Dict, not a model",
}
DATA = {
    "nowhere.rec": "nowhere.rec: no such file; name a .rec file",
    "{w}/empty.rec": "empty.rec has no record",
    "{w}/text.rec": "text.rec: record 0 at byte 0 is corrupt",
    "{w}/truncated.rec": "truncated.rec: record 15 at byte .* is cut short",
    "{w}/broken.rec": "broken.rec: record .* is damaged and cannot be decoded",
    "{w}/sizes.rec": "sizes.rec: record .* has 16x16 pixels, and image 0 8x8",
    "{w}/cut.tar": "cut.tar is cut short: it ends at byte 1,000",
    "{w}/packed.tar.gz": r"packed.tar.gz is compressed \(gzip\)",
    "{w}/text.tar": "text.tar: the member at byte 0 is damaged, or this is no tar file",
    "{w}/shards/s-{{0..5}}.tar": "s-2.tar: no such file",
    "{w}/nobody": "nobody has no .rec file and no folder of a person",
    "{w}/list.txt": "list.txt:1 is not `path label`",
    "{w}/missing.txt": "missing.txt:1: .*nowhere.png: no such file",
    "{w}/alone.rec --loss margin": "the data names fewer than two",
    "{w}/faces.rec --batch-size 400": "12 training images do not fill a batch",
    "{w}/faces.rec --loss cosin": "there is no loss 'cosin' .*did you mean 'cosine'",
    "{w}/faces.rec --loss cosine=much": "'much' is no number",
    "{w}/faces.rec --import nowhere.py": "nowhere.py: no such file; name a Python module",
    "{w}/faces.rec --import {w}/list.txt": "list.txt is no Python module: its name ends in .py",
    "{w}/faces.rec --loss cosine=-1": r"stages\[0\].losses.cosine=-1.0 must be a number, zero or positive",
    "{w}/faces.rec --lr nan": "lr=nan must be a positive number",
    "{w}/faces.rec --lr 1e30": r"no longer finite in epoch 1 .*: lower lr=1e\+30",
    "{w}/faces.rec --epochs 0": "epochs=0 must be a whole number, at least 1",
    "{w}/faces.rec --block dbbb": "there is no block 'dbbb'",
    "{w}/faces.rec --device cudo": "there is no device 'cudo' .*; there are .*cpu$",
    "{w}/faces.rec --device meta": "'meta' .*: Cannot copy out of meta tensor.*; there are .*cpu",
    "{w}/faces.rec --device hpu": "no device 'hpu' .*: No module named",
    "{w}/faces.rec --device xla": "no device 'xla' .*: Could not run .* backend; there are",
    "{w}/faces.rec --rate 1e-3": "--seeds and --rate are of the arms of --compare, which is not given",
    "{w}/faces.rec --seeds 2": "--seeds and --rate are of the arms of --compare, which is not given",
    "{w}/faces.rec --val {w}/pairs.bin --compare --rate nan": r"rates=\(nan,\) must be positive numbers",
    "{w}/faces.rec --val {w}/pairs.bin --compare --rate -1": r"rates=\(-1.0,\) must be positive numbers",
    "{w}/faces.rec --val {w}/pairs.bin --compare --seeds 99999999999999": "not in the range 1<=x<=1000",
    "{w}/faces.rec --val nowhere.bin": "nowhere.bin: no such file",
    "{w}/faces.rec --val {w}/genuine.bin": "need genuine and impostor pairs",
    "{w}/faces.rec -o out.txt": "reparam-kit: out.txt: the suffix",
    "{w}/faces.rec --exclude conv9": "exclude='conv9' matches no trainable tensor",
    "{w}/faces.rec --student-output z": "the student has no output 'z': known outputs: ",
    "{w}/faces.rec --teacher-output z": "has no output 'z': known outputs: ",
    "{w}/faces.rec --val {w}/large.bin": "the student takes images of 8 x 8 .*, and the validation images are 16",
    "{w}/faces.rec --compare": r"\(--compare\) judges its arms on val \(--val\)",
    "{w}/faces.rec -o nowhere/out.onnx": "nowhere.* (cannot be made|does not exist)",
    "{w}/faces.rec --config nowhere.json": "nowhere.json: no such file; name a file of choices",
    "{w}/faces.rec --config {w}/text.json": "text.json is no JSON that can be read",
    "{w}/faces.rec --config {w}/name.json": "there is no choice 'bloc': did you mean 'block'",
    "{w}/faces.rec --config {w}/version.json": "choices of version 99",
    "{w}/faces.rec --teacher-input raww": "there is no input preset 'raww' .*: did you mean 'raw'",
    "{w}/faces.rec --teacher {w}/teacher.onnx --teacher-input raw --teacher {w}/teacher.onnx": "for 3 teachers",
}
TEACHERS = {
    "nowhere.onnx": "nowhere.onnx: no such file",
    "{w}/text.onnx": "text.onnx is not an ONNX model",
    "{w}/nan_teacher.onnx": "the teacher's embedding of training image 0 is zero or not finite",
}
PEOPLE = {
    "--people nowhere.rec": "nowhere.rec: no such file",
    "--people {w}/pairs.bin": "pairs.bin is a verification set",
    "--people {w}/faces.rec --impostors nowhere.rec": "nowhere.rec: no such file",
    "--impostors {w}/faces.rec": "--impostors sets thresholds for the faces of --people, which is not given",
    "--people {w}/faces.rec --alike m.onnx raw": "--alike says which of --impostors are of one person",
}
COMMANDS = {
    **{f"inspect {model}": (2, says) for model, says in IN_ONNX.items()},
    **OUT,
    **{f"evaluate {{w}}/face.onnx --input raw --pairs {rest}": (2, says) for rest, says in PAIRS.items()},
    **{f"evaluate {{w}}/face.onnx --input raw {rest}": (2, says) for rest, says in PEOPLE.items()},
    **{f"evaluate {rest} --pairs {{w}}/pairs.bin": (2, says) for rest, says in EVALUATE.items()},
    **{f"{TSMR}--teacher {{w}}/teacher.onnx --data {rest}": (2, says) for rest, says in DATA.items()},
    **{f"{TSMR}--data {{w}}/faces.rec --teacher {rest}": (2, says) for rest, says in TEACHERS.items()},
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_what_is_wrong(command: str, w: Path, here: Path) -> None:
    code, says = COMMANDS[command]
    before = sorted(w.rglob("*"))
    result = run(command, w)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == code
    # What a recipe reports of its progress before it fails are lines with a time stamp.
    *progress, line = result.stderr.splitlines()
    assert all(
        re.match(
            r"[-\d]{10} [\d:]{8} ([a-z ]+: [\d,]+ images, |the student.s output is taken for |pairs that are hard |"
            r"deployed: |device: cpu|the teacher .*: |WARNING: without val )",
            text,
        )
        for text in progress
    )
    assert line.startswith("reparam-kit: ")
    assert_one_line(line, says)
    assert result.stdout == ""
    # The teacher's embeddings, which the next run of a recipe takes up, may stay.
    left = [path for path in here.rglob("*") if path.is_file() and path.suffix != ".npy"]
    assert left == []
    assert sorted(w.rglob("*")) == before


def opening(monkeypatch: pytest.MonkeyPatch, instead: Callable[[Path, str], Path]) -> None:
    """Open what ``instead`` says in the place of a path, by its mode; it may raise."""
    real = Path.open

    def open_(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        return real(instead(path, mode), mode, *args, **options)

    monkeypatch.setattr(Path, "open", open_)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("inspect {w}/state.pt", "state.pt"),
        ("inspect factories:net --weights {w}/state.pt", "state.pt"),
        ("evaluate {w}/face.onnx --input raw --pairs {w}/pairs.bin", "pairs.bin"),
        ("evaluate {w}/face.onnx --input raw --pairs {w}/pairs.txt", "pairs.txt"),
        ("export factories:net -o out.onnx --like {w}/net.onnx --inputs {w}/name.npz", "name.npz"),
        (TSMR + "--teacher {w}/teacher.onnx --data {w}/faces.rec", "faces.rec"),
    ],
)
def test_a_file_that_may_not_be_read(
    command: str, name: str, w: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: str) -> Path:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return path

    opening(monkeypatch, refuse)
    result = run(command, w)
    assert result.exit_code == 2
    assert_one_line(result.stderr, f"{name}.*Permission denied|Permission denied.*{name}")


@pytest.mark.parametrize("output", ["out.pt", "out.onnx", "out.safetensors"])
def test_a_folder_that_may_not_be_written_to(
    output: str, w: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touch(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "touch", touch)
    command = "fold {w}/student.pt" if output.endswith("onnx") else "expand {w}/net.onnx"
    result = run(f"{command} -o {output}", w)
    assert result.exit_code == 2
    assert_one_line(result.stderr, f"{output} cannot be written: Permission denied")
    assert list(here.iterdir()) == []


FULL = """
import resource, shlex, signal, sys
from reparam_kit.cli import main
import torch.distributed.nn, reparam_kit.formats
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
for command in sys.argv[1:]:
    try:
        main(shlex.split(command))
    except SystemExit as ended:
        print(ended.code)
"""


def test_a_disk_that_is_full(w: Path, here: Path) -> None:
    """The writers of torch and safetensors fail in ways of their own, so the limit is a real one, on the size.

    Up to torch 2.7 or so, importing torch.distributed.nn writes a file too, and much of torch does that in passing.
    """
    commands = {
        "out.onnx": f"fold {w}/student.pt",
        "out.pt": "expand factories:net",
        "out.safetensors": "expand factories:net",
    }
    ended = subprocess.run(
        [sys.executable, "-c", FULL, *(f"{command} -o {output}" for output, command in commands.items())],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(w), str(ROOT)])},
    )
    assert ended.stdout == "2\n" * len(commands)
    for line, output in zip(ended.stderr.splitlines(), commands, strict=True):
        assert_one_line(line, f"{output} cannot be written")
    assert list(here.iterdir()) == []


def test_a_run_that_is_interrupted_keeps_its_checkpoint(
    w: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainer.run_epoch

    def run_epoch(trainer: Trainer, epoch: int, *args: Any) -> Any:
        if epoch == 2:
            raise KeyboardInterrupt
        return real(trainer, epoch, *args)

    command = (
        TSMR.replace("--epochs 1", "--epochs 2")
        + "--refine-epochs 0 --teacher {w}/teacher.onnx --data {w}/faces.rec"
    )
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", run_epoch)
        result = run(command, w)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].startswith("reparam-kit: interrupted")
    assert "Traceback" not in result.output
    assert not (here / "out.onnx").exists()
    assert [path.name for path in here.rglob("*.pt")] == ["checkpoint.pt"]
    again = run(command, w)
    assert again.exit_code == 0, again.output
    assert "going on after epoch 1 of 2" in again.stderr


def test_an_interrupted_write_leaves_the_old_file(
    w: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "out.onnx").write_bytes(b"old")

    def replace(*paths: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", replace)
    assert run("fold {w}/student.pt -o out.onnx", w).exit_code == 130
    assert [path.name for path in here.iterdir()] == ["out.onnx"]
    assert (here / "out.onnx").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["expand", "m.onnx", "-o", "out.pt", "--include", ""], " beside --include,"),
        (["expand", "", "-o", "out.pt"], ","),
        (["fold", "m.pt", "-o", ""], " beside -o,"),
        (["fold", "m.pt", "--output="], " beside --output=,"),
        (["tsmr", "m.onnx", "--data", ""], " beside --data,"),
        (["tsmr", "m.onnx", "--work="], " beside --work=,"),
        (["tsmr", "m.onnx", "--log-to", "", "-o", "a.onnx"], " beside --log-to,"),
        (["evaluate", "m.onnx", "--pairs", ""], " beside --pairs,"),
    ],
)
def test_a_variable_that_is_not_set_is_no_value(words: list[str], where: str, here: Path) -> None:
    """As a path, an empty text is the current folder."""
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert_one_line(result.stderr, f"an empty value{where} as of a variable")
    assert list(here.iterdir()) == []
