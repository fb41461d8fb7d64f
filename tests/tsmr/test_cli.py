from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from recipes.faces import PairSet, decode_image, evaluate, read_pairs, write_pairs
from recipes.tsmr import improvement
from recipes.tsmr.cli import tsmr
from reparam_kit import InputError, ReparamError


@pytest.fixture
def command(tmp_path: Path, rec: Path, deployed: tuple[Path, Path]) -> list[str]:
    student, teacher = deployed
    options = {
        "--teacher": teacher, "--data": rec, "-o": tmp_path / "out.onnx", "--student-input": "insightface",
        "--teacher-input": "raw", "--epochs": 2, "--refine-epochs": 0, "--batch-size": 8, "--lr": 1e-3,
    }  # fmt: skip
    return [str(student), *(str(text) for pair in options.items() for text in pair)]


def run(*args: str) -> Result:
    result = CliRunner().invoke(tsmr, args)
    if result.exception is not None:
        raise result.exception
    return result


def test_from_file_to_file(command: list[str], bin_file: Path, tmp_path: Path) -> None:
    report = json.loads(run(*command, "--json").stdout)
    assert report["verification"]["structure"]["same_graph"]
    assert len(report["verification"]["structure"]["payloads"]) == 7
    assert report["config"]["teacher_input"] == "raw"
    assert report["kept"] == 2
    assert evaluate(tmp_path / "out.onnx", bin_file).embedding_size == 8
    assert "The graph is the same, 7 weights differ" in (tmp_path / "out.onnx.html").read_text()
    work = sorted(path.name for path in (tmp_path / "out.onnx.work").iterdir())
    assert [name.split("-")[0] for name in work] == ["checkpoint.pt", "deployed", "teacher"]


def test_the_same_command_again_gives_the_same_file(command: list[str], tmp_path: Path) -> None:
    run(*command)
    first = (tmp_path / "out.onnx").read_bytes()
    again = run(*command)
    assert (tmp_path / "out.onnx").read_bytes() == first
    assert "going on after epoch 2 of 2" in again.stderr
    with pytest.raises(InputError, match=r"seed=0 \(now 1\)"):
        run(*command, "--seed", "1")
    run(*command, "--seed", "1", "--work", str(tmp_path / "other"))


def test_the_table_says_before_and_after(command: list[str], bin_file: Path, tmp_path: Path) -> None:
    result = run(*command, "--val", str(bin_file), "--block", "plain")
    assert "before" in result.stdout
    assert "accuracy" in result.stdout
    assert "on this set" in result.stdout
    assert "the graph of" in result.stdout


@pytest.mark.parametrize("option", ["--student-input", "--teacher-input"])
def test_an_input_preset_must_be_given(command: list[str], option: str) -> None:
    at = command.index(option)
    with pytest.raises(InputError, match="required and have no default"):
        run(*command[:at], *command[at + 2 :])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["-o", "out.txt"], r"out\.txt: the suffix"),
        (["-o", "missing/out.onnx"], "missing/out.onnx"),
        (["--device", "cudo"], r"there is no device 'cudo' .*; there are .*cpu"),
        (["--report", "missing/page.html"], r"missing/page\.html"),
    ],
)
def test_what_cannot_end_well_is_refused_before_training(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        run(*command, *args)
    assert not list(tmp_path.glob("**/teacher-*.npy"))


def test_options_make_the_stages(command: list[str]) -> None:
    terms = ["--loss", "cosine", "--loss", "relational=2", "--refine-epochs", "1", "--adversarial", "0.3"]
    others = ["--ema", "0.9", "--keep-gallery", "--restore-bn"]
    config = json.loads(run(*command, *terms, *others, "--json").stdout)["config"]
    first, second = config["stages"]
    assert (first["epochs"], first["losses"]) == (2, {"cosine": 1, "relational": 2})
    assert (second["epochs"], second["losses"]) == (1, {"cosine": 1, "relational": 2, "adversarial": 0.3})
    assert (config["ema"], config["keep_gallery"], config["restore_bn"]) == (0.9, 1, True)


def test_a_file_of_choices_is_what_json_prints(command: list[str], tmp_path: Path) -> None:
    config = json.loads(run(*command, "--json").stdout)["config"]
    (tmp_path / "choices.json").write_text(json.dumps(config))
    student, *options = command
    given = dict(zip(options[::2], options[1::2], strict=True))
    files = [text for name in ("--teacher", "--data") for text in (name, given[name])]
    again = ["--config", str(tmp_path / "choices.json"), "-o", str(tmp_path / "again.onnx")]
    assert json.loads(run(student, *files, *again, "--json").stdout)["config"] == config
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--loss", "cosin=1"], "there is no loss 'cosin' .*did you mean 'cosine'"),
        (["--loss", "cosine=much"], "'much' is no number"),
        (["--compare"], r"\(--compare\) judges its arms on val \(--val\), which is not given"),
        (
            ["--config", "missing.json"],
            r"missing.json: no such file; name a file of choices \(.yaml or .json\)",
        ),
        (["--loss", "cosine="], "'' is no number"),
        (["--loss", "cosine=nan"], r"stages\[0\].losses.cosine=nan must be"),
        (["--loss", "cosine=1", "--loss", "cosine=2"], "cosine has a weight already"),
        (["--lr", "nan"], "lr=nan must be a positive number"),
        (["--lr", "-inf"], "lr=-inf must be a positive number"),
        (["--ema", "1"], "ema=1.0 must be"),
        (["--batch-size", "0"], "batch_size=0 must be"),
        (["--epochs", "-1"], r"stages\[0\].epochs=-1 must be"),
        (["--adversarial", "0.1"], "--adversarial is of the second stage, and there is none"),
        (["--refine-epochs", "-1"], r"stages\[1\].epochs=-1 must be"),
        (["--seed", "-1"], "seed=-1 must be"),
        (["--keep-gallery", "inf"], "keep_gallery=inf must be"),
        (["--norm", "bach"], "norm='bach' is not known: did you mean 'batch'"),
    ],
)
def test_options_that_say_nothing_are_refused(command: list[str], args: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        run(*command, *args)


def test_the_ablation_is_printed(command: list[str], bin_file: Path) -> None:
    args = ["--val", str(bin_file), "--compare", "--seeds", "1", "--rate", "1e-3", "--keep-gallery", "2"]
    out = run(*command, *args, "--epochs", "1").stdout
    for arm in ("fine-tuning", "distillation", "branches", "TSMR"):
        assert arm in out  # whole, whatever the width
    assert "±" in out
    assert "new-old" in out


def test_the_model_is_there_when_its_page_cannot_be_made(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise KeyError("no colour")

    monkeypatch.setattr(improvement, "write_report", fail)
    with pytest.raises(
        ReparamError, match=r"out\.onnx is written and good, but its page .* is not: 'no colour'"
    ):
        run(*command)
    onnx.checker.check_model(tmp_path / "out.onnx")


def test_patterns_choose_by_the_names_in_the_file(command: list[str], tmp_path: Path) -> None:
    report = json.loads(run(*command, "--include", "c?.*", "--exclude", "c1.b", "--json").stdout)
    changed = {payload["name"] for payload in report["verification"]["structure"]["payloads"]}
    assert changed == {f"initializer {name!r}" for name in ("c1.w", "c2.w", "c2.b")}
    assert (report["config"]["include"], report["config"]["exclude"]) == (["c?.*"], ["c1.b"])


@pytest.mark.parametrize(
    ("student", "says"),
    [
        (
            (20, 3, None),
            r"the student takes images of 20 x 20 .*, and the training images are 16 x 16: align",
        ),
        ((16, 1, None), "the student takes images of one channel, and the training images are of 3"),
        ((16, 3, "raw8"), "the student takes x uint8"),
    ],
)
def test_the_student_is_held_against_the_images_first(
    command: list[str], tmp_path: Path, student: tuple[int, int, str | None], says: str
) -> None:
    size, channels, kind = student
    elem = TensorProto.UINT8 if kind else TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["f", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    weight = numpy_helper.from_array(np.ones((8, channels, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", elem, ["n", channels, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 1, 1])],
        [weight],
    )
    other = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), other)
    with pytest.raises(InputError, match=says):
        run(str(other), *command[1:])
    assert not (tmp_path / "out.onnx.work").exists()


def test_validation_images_of_another_size_are_refused(
    command: list[str], bin_file: Path, tmp_path: Path
) -> None:
    faces = read_pairs(bin_file)
    smaller = []
    for image in faces.images:
        buffer = io.BytesIO()
        Image.fromarray(decode_image(image, "")).resize((12, 12)).save(buffer, "PNG")
        smaller.append(buffer.getvalue())
    write_pairs(tmp_path / "small.bin", PairSet(smaller, faces.same))
    with pytest.raises(InputError, match=r"16 x 16 .*, and the validation images are 12 x 12: align"):
        run(*command, "--val", str(tmp_path / "small.bin"))
