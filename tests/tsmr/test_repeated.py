"""A run is in a file before it and after it, and either does it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from recipes.tsmr import TSMRConfig, improve, read_run
from recipes.tsmr.catalogue import keys
from recipes.tsmr.cli import tsmr
from recipes.tsmr.config_cli import config
from recipes.tsmr.settings import read_settings
from recipes.tsmr.told import Told
from reparam_kit import InputError

INPUTS = ["--student-input", "insightface", "--teacher-input", "raw"]


def run(*args: str) -> Result:
    result = CliRunner().invoke(tsmr, args)
    if result.exception is not None:
        raise result.exception
    return result


@pytest.fixture
def here(tmp_path: Path, rec: Path, deployed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for path, name in zip(
        (*deployed, rec, rec.with_suffix(".idx")), ("s.onnx", "t.onnx", "d.rec", "d.idx"), strict=True
    ):
        if path != tmp_path / name:
            (tmp_path / name).write_bytes(path.read_bytes())
    return tmp_path


FILES = ["s.onnx", "--teacher", "t.onnx", "--data", "d.rec", *INPUTS]


def test_the_file_before_a_run_and_the_one_after_it_repeat_it(here: Path) -> None:
    choices = [
        "--budget",
        "3s",
        "--batch-size",
        "8",
        "--set",
        "adversary.lr=1e-5",
        "--block",
        "plain",
        "--images",
        "24",
    ]
    first = run(*FILES, *choices, "-o", "a.onnx", "--save-config", "run.yaml", "--json")
    asked = read_run("run.yaml")
    assert (asked.config.budget, asked.config.block, asked.config.adversary.lr) == (0.05, None, 1e-5)
    kept = read_settings("a.onnx.yaml")
    assert {"stages", "steps", "lr", "seed"} <= kept.values.keys()
    assert kept.values["sha256"].keys() == {"student", "teacher", "data"}
    assert Told("a.onnx.yaml").config() == TSMRConfig.from_json(json.loads(first.stdout)["config"])
    run("--config", "a.onnx.yaml", "-o", "b.onnx")
    assert (here / "b.onnx").read_bytes() == (here / "a.onnx").read_bytes()
    (here / "report.json").write_text(first.stdout)
    run(*FILES[:-4], "--config", "report.json", "-o", "c.onnx")
    assert (here / "c.onnx").read_bytes() == (here / "a.onnx").read_bytes()
    again = run("--config", "a.onnx.yaml")
    assert "going on after epoch" in again.stderr
    assert read_settings("a.onnx.yaml").values == kept.values


def test_what_is_another_than_the_file_says_is_warned_of(here: Path) -> None:
    short = ["--set", "stages=[{cosine: 1, epochs: 1}]", "--batch-size", "8"]
    run(*FILES, *short, "-o", "a.onnx")
    (here / "t.onnx").write_bytes((here / "s.onnx").read_bytes())
    assert (
        "teacher is another than it was when --config was written"
        in run("--config", "a.onnx.yaml", "-o", "b.onnx").stderr
    )


def test_options_win_over_the_file_key_by_key(here: Path) -> None:
    (here / "run.yaml").write_text(
        "student: s.onnx\nteacher: t.onnx\ndata: nowhere.rec\noutput: a.onnx\nstudent_input: raw\nteacher_input: raw\n"
        "val_people: p.rec\nimpostors: i.rec\nbatch_size: 8\nstages: [{epochs: 1, cosine: 1}]\nbf16: true\n"
        "compare: true\n"
    )
    with pytest.raises(InputError, match=r"--data nowhere.rec|nowhere.rec: no such file"):
        run("--config", "run.yaml")
    with pytest.raises(InputError, match=r"p.rec: no such file"):
        run(
            "--config",
            "run.yaml",
            "--data",
            "d.rec",
            "--no-bf16",
            "--save-config",
            "again.yaml",
            "--seeds",
            "2",
        )
    before, after = read_settings("run.yaml").values, read_run("again.yaml")
    assert (after.data, after.config.bf16, after.output) == ("d.rec", False, before["output"])
    assert (after.val_people, after.impostors, after.config.batch_size) == ("p.rec", "i.rec", 8)
    assert after.compare is not None
    assert (after.compare.seeds, after.compare.rates) == ((0, 1), None)


def test_a_call_from_python_leaves_its_choices_too(here: Path) -> None:
    settings = {"stages": [{"epochs": 1, "cosine": 1}], "batch_size": 8, "teacher_input": "raw"}
    improve("s.onnx", "t.onnx", "d.rec", "a.onnx", config=TSMRConfig.from_json(settings))
    arguments = read_run("a.onnx.yaml").arguments
    improve(**{**arguments, "output": "b.onnx"})
    assert (here / "b.onnx").read_bytes() == (here / "a.onnx").read_bytes()


def test_config_prints_a_file_of_the_defaults(tmp_path: Path) -> None:
    shown = CliRunner().invoke(config, ["--show"]).output
    (tmp_path / "run.yaml").write_text(shown)
    assert Told(tmp_path / "run.yaml").config() == TSMRConfig()
    lines = shown.splitlines()
    for key in keys():
        assert key.meaning, key.place
        assert any(f"{key.name}:" in line and key.meaning in line and key.unit in line for line in lines), (
            key.place
        )
    assert max(map(len, lines)) < 320


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("margin.size", "radians or cosine"),
        ("budget", "60 for embeddings"),
        ("margin", "its parts: margin.kind"),
        ("steps", "[steps]"),
    ],
)
def test_config_explains_a_key(key: str, says: str) -> None:
    assert says in CliRunner().invoke(config, [key]).output


def test_config_says_what_may_be_meant() -> None:
    found = CliRunner().invoke(config, ["margin.siz"])
    assert isinstance(found.exception, InputError)
    assert str(found.exception) == "there is no choice 'margin.siz': did you mean 'margin.size'?"
