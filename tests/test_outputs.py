"""No output of any command replaces what a command reads or another output, however either is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import onnx
import pytest
from click.testing import CliRunner
from test_formats import small_onnx

from reparam_kit.cli import main
from reparam_kit.cli.paths import OutputPath, RootPath
from reparam_kit.errors import InputError
from reparam_kit.outputs import Output, hold_apart

OUTPUTS = {
    ("expand", "output"), ("fold", "output"), ("export", "output"), ("evaluate", "roc"), ("demo", "output"),
    ("tsmr", "output"), ("tsmr", "work"), ("tsmr", "report"), ("tsmr", "save_config"), ("faces align", "output"),
}  # fmt: skip
INPUTS = {
    ("inspect", "model"), ("expand", "model"), ("fold", "expanded"), ("verify", "a"), ("verify", "b"),
    ("verify", "inputs"), ("verify", "calibration"), ("diff", "a"), ("diff", "b"), ("export", "model"),
    ("export", "like"), ("export", "inputs"), ("evaluate", "models"), ("evaluate", "pairs"), ("evaluate", "classes"),
    ("evaluate", "query"), ("evaluate", "gallery"), ("evaluate", "people"), ("evaluate", "impostors"),
    ("tsmr", "student"), ("tsmr", "val_people"), ("tsmr", "impostors"), ("tsmr", "teacher_weights"),
    ("tsmr", "teacher"), ("tsmr", "data"), ("tsmr", "val"), ("tsmr", "config_file"), ("tsmr", "imports"),
    ("faces align", "photos"), ("faces align", "detector"), ("faces check", "data"), ("faces check", "model"),
    ("expand", "float"), ("tsmr", "float"), ("inspect", "import"), ("expand", "import"), ("evaluate", "import"),
    ("inputs", "import"), ("inputs", "model"), ("inputs", "val"), ("inputs", "people"),
    *((command, "weights") for command in ("inspect", "expand", "fold", "export", "evaluate", "inputs", "tsmr")),
}  # fmt: skip


def commands(group: click.Group = main, within: str = "") -> dict[str, click.Command]:
    """Every command by its name, those of groups by both names."""
    context, found = click.Context(group), {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = isinstance(command, click.Group)
        found |= commands(command, f"{name} ") if below else {within + name: command}  # type: ignore[arg-type]
    return found


def paths() -> dict[tuple[str, str], click.Parameter]:
    """Every parameter of every command that is a path."""
    return {
        (name, str(param.name)): param
        for name, command in commands().items()
        for param in command.params
        if isinstance(param.type, click.Path)
    }


def test_every_path_of_every_command_is_declared_as_what_it_is() -> None:
    """An option that is new fails here until it is in one of the tables, and is held apart by its type."""
    found = paths()
    assert {key for key, param in found.items() if isinstance(param.type, OutputPath)} == OUTPUTS
    assert {key for key, param in found.items() if type(param.type) is click.Path} == INPUTS
    assert {key for key, param in found.items() if isinstance(param.type, RootPath)} == {
        ("evaluate", "images")
    }


def test_no_option_that_names_a_file_is_plain_text() -> None:
    for command in commands().values():
        for param in command.params:
            assert isinstance(param.type, click.Path) or "file" not in (param.metavar or "").lower(), param


TSMR = ["tsmr", "s.onnx", "--teacher", "t.onnx", "--data", "d.rec", "--val", "v.bin", "--config", "c.json"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small_onnx(tmp_path / "s.onnx")
    for name in (
        "t.onnx",
        "d.rec",
        "d.idx",
        "property",
        "v.bin",
        "c.json",
        "w.pt",
        "i.npz",
        "p.txt",
        "q.onnx.html",
    ):
        (tmp_path / name).write_bytes(b"{}" if name == "c.json" else b"old")
    (tmp_path / "folder" / "person").mkdir(parents=True)
    (tmp_path / "link.onnx").symlink_to("s.onnx")
    os.link(tmp_path / "s.onnx", tmp_path / "twin.onnx")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        "expand s.onnx -o s.onnx",
        "expand s.onnx -o ./s.onnx",
        "expand s.onnx -o folder/../s.onnx",
        "expand s.onnx -o link.onnx",
        "expand s.onnx -o twin.onnx",
        "expand link.onnx -o twin.onnx",
        "expand nets:Plain --weights w.pt -o w.pt",
        "fold w.pt -o w.pt",
        "export nets:Plain --weights w.pt --like s.onnx -o s.onnx",
        "evaluate s.onnx t.onnx --input raw --pairs p.svg --roc p.svg",
        "evaluate s.onnx --input raw --pairs folder --roc folder/person/roc.png",
        "TSMR -o s.onnx",
        "TSMR -o link.onnx",
        "TSMR -o twin.onnx",
        "TSMR -o t.onnx",
        "TSMR -o o.onnx --work o.onnx",
        "TSMR -o o.onnx --work O.onnx",
        "TSMR -o o.onnx --work s.onnx",
        "TSMR -o o.onnx --work d.rec",
        "TSMR -o o.onnx --work d.idx",
        "TSMR -o work/arms/o.onnx --work work",
        "TSMR --weights work/checkpoint.pt -o o.onnx --work work",
        "TSMR --data folder -o folder/o.onnx",
        "TSMR --data folder -o folder/person/o.onnx",
        "TSMR --data folder -o o.onnx --work folder/work",
        "TSMR --data folder -o o.onnx --work folder",
        "TSMR --data folder -o o.onnx --report folder/page.html",
        "faces align folder -o folder/o.rec --detector s.onnx",
        "faces align d.rec -o d.rec --detector s.onnx",
        "TSMR --val q.onnx.html -o q.onnx",
        "TSMR --data o.onnx.work -o o.onnx",
        "TSMR --teacher o.onnx.data -o o.onnx",
        "TSMR --teacher o.onnx.1.data -o o.onnx",
    ],
)
def test_an_output_that_is_an_input_or_another_output_is_refused(here: Path, words: str) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    command = [word for text in words.split() for word in (TSMR if text == "TSMR" else [text])]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert "the same" in line or "lies " in line or "may keep tensors in" in line, line
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "choose"),
    [
        ("expand s.onnx -o out.txt", ".onnx, .pt, .pth or .safetensors"),
        ("fold w.pt -o out", ".onnx, .pt, .pth or .safetensors"),
        ("export nets:Plain --like s.onnx -o out.pt", ".onnx"),
        ("evaluate s.onnx --input raw --pairs p.txt --roc out.pdf", ".svg or .png"),
        ("faces align folder -o out.bin --detector s.onnx", ".rec"),
        ("TSMR -o out.bin", ".onnx, .pt, .pth or .safetensors"),
        ("TSMR -o out.onnx --report out.pdf", ".html or .htm"),
    ],
)
def test_a_suffix_of_another_format_is_refused_first(here: Path, words: str, choose: str) -> None:
    command = [word for text in words.split() for word in (TSMR if text == "TSMR" else [text])]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert f"the suffix says what is written; choose {choose}\n" in result.stderr


def test_external_data_is_a_part_of_its_model(tmp_path: Path) -> None:
    model = onnx.load(small_onnx(tmp_path / "a.onnx"))
    onnx.save(model, tmp_path / "b.onnx", save_as_external_data=True, location="b.bin", size_threshold=0)
    with pytest.raises(InputError, match=r"-o .*b\.bin and MODEL .*b\.bin are the same"):
        hold_apart([("MODEL", tmp_path / "b.onnx")], {"-o": Output(tmp_path / "b.bin")})


def test_what_lies_side_by_side_is_no_clash(here: Path) -> None:
    read: list[tuple[str, str | Path]] = [
        ("a", "s.onnx"),
        ("b", "nets:Plain"),
        ("c", "folder/person"),
        ("d", "no\0ne"),
    ]
    written: dict[str, Any] = {
        "x": Output(Path("out.onnx")), "y": Output(Path("out.onnx.html")), "z": Output(Path("folder/new.pt")),
        "w": Output(Path(), ("checkpoint.pt",)), "v": Output(Path("logs/deep"), ("events*",)),
    }  # fmt: skip
    hold_apart(read, written)
