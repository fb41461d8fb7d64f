"""Commands of other packages: one that cannot be loaded is one line, and everything else works."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from plugs import fresh, install
from test_formats import small_onnx

import reparam_kit as rk
from reparam_kit.algebra import FACTORS, PRESETS, block, norm_of
from reparam_kit.cli import main
from reparam_kit.cli.plugins import load

GOOD = "import click\n@click.command()\ndef run():\n    print('it ran')\n"
# What the module holds, the entry point, and what the line says.
BROKEN = {
    "an import": ("import no_such_package", "plug.cli:run", "No module named 'no_such_package'"),
    "a name that another package lacks": ("from os import no_such_name", "plug.cli:run", "no_such_name"),
    "a syntax error": ("def run(:\n  pass", "plug.cli:run", "SyntaxError"),
    "any error": (
        "raise RuntimeError('first line\\nsecond line')",
        "plug.cli:run",
        "RuntimeError: first line",
    ),
    "an error without a text": ("assert False", "plug.cli:run", "AssertionError"),
    "an exit": ("raise SystemExit(0)", "plug.cli:run", "it exits when"),
    "an exit of another kind": (
        "class Skipped(BaseException): pass\nraise Skipped('not here')",
        "plug.cli:run",
        "Skipped: not here",
    ),
    "words on standard output": ("print('hello')\nimport no_such_package", "plug.cli:run", "no_such_package"),
    "help that fails": (
        "import click\nclass Run(click.Command):\n    def get_short_help_str(self, limit=45): 1 / 0\nrun = Run('run')",
        "plug.cli:run",
        "its help raises ZeroDivisionError: division by zero",
    ),
    "no such module": (GOOD, "plug.other:run", "No module named 'plug.other'"),
    "no such attribute": (GOOD, "plug.cli:walk", "walk"),
    "no command": ("def run(): pass", "plug.cli:run", "of type function, no click command"),
    "a class": ("import click\nrun = click.Command", "plug.cli:run", "of type type, no click command"),
    "no entry point": (GOOD, "?", "cannot be loaded"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that packages are imported from, and forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (FACTORS, PRESETS):
        fresh(registry, monkeypatch)
    yield tmp_path
    load.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "plug"]:
        del sys.modules[name]


def mine(point: str = "plug.cli:run") -> bytes:
    return f"[reparam_kit.commands]\nmine = {point}\n".encode()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_command_of_another_package_is_listed_and_runs(here: Path) -> None:
    install(here, mine(), GOOD)
    shown = run("--help")
    assert "\n  mine" in shown.stdout
    assert shown.stderr == ""
    assert run("mine").stdout == "it ran\n"


@pytest.mark.parametrize("kind", BROKEN)
def test_one_that_cannot_be_loaded_is_one_line(here: Path, kind: str) -> None:
    code, point, reason = BROKEN[kind]
    install(here, mine(point), code)
    shown = run("--help")
    assert shown.exit_code == 0
    (warning,) = (line for line in shown.stderr.splitlines() if line != "hello")
    assert "hello" not in shown.stdout
    assert warning.startswith(f"reparam-kit: warning: no command mine: {point} cannot be loaded: ")
    assert reason in warning
    assert "  mine" not in shown.stdout
    assert all(f"\n  {command} " in shown.stdout for command in ("inspect", "fold", "tsmr", "demo"))
    for arguments in (["mine"], ["mine", "--help"], ["mine", "a", "-b"]):
        called = run(*arguments)
        assert called.exit_code == 2
        assert called.stdout == ""
        assert called.stderr.splitlines() == [warning.replace("warning: ", "")]


def test_one_that_prints_spoils_no_output(here: Path) -> None:
    install(here, mine(), f"print('a word')\n{GOOD}")
    shown = run("--help")
    assert "a word" in shown.stderr
    assert "a word" not in shown.stdout
    assert run("mine").stdout == "it ran\n"


def test_a_name_that_another_has_is_one_line(here: Path) -> None:
    install(here, mine() + b"fold = plug.cli:run\ntsmr = plug.cli:run\n", GOOD)
    install(here, b"[reparam_kit.commands]\nmine = plug2.cli:run\n", GOOD, package="plug2")
    shown = run("--help")
    assert sorted(shown.stderr.splitlines()) == [
        "reparam-kit: warning: plug.cli:run is left out: fold is a command of reparam-kit itself",
        "reparam-kit: warning: plug.cli:run is left out: the command tsmr is recipes.tsmr.cli:tsmr",
        "reparam-kit: warning: plug2.cli:run is left out: the command mine is plug.cli:run",
    ]
    assert "--teacher" in run("tsmr", "--help").stdout
    assert run("mine").stdout == "it ran\n"


def test_a_fault_of_a_command_of_another_package_is_not_ours(here: Path) -> None:
    install(here, mine(), GOOD.replace("print('it ran')", "1 / 0"))
    called = run("mine")
    assert called.exit_code == 2
    (line,) = called.stderr.splitlines()
    assert line.startswith(f"reparam-kit: {here / 'plug' / 'cli.py'}, line 4: ZeroDivisionError: division by")


def test_it_does_not_disturb_other_commands(here: Path) -> None:
    install(here, mine(), "1 / 0")
    net = small_onnx(here / "net.onnx")
    shown = run("diff", net, net)
    assert (shown.exit_code, shown.stderr) == (0, "")


ELSEWHERE = """
import sys
# The finder of an editable installation knows the modules of `recipes` by their full names, as no other one does.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
from reparam_kit.cli import main
main(prog_name="reparam-kit")
"""


def elsewhere(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that imports from ``folder`` first."""
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "raise ModuleNotFoundError('The torchtune recipes are no package')",
        "raise SystemExit",
        "print(1)",
        "(",
    ],
    ids=["empty", "raises", "exits", "prints", "no Python"],
)
def test_a_foreign_package_named_recipes_is_one_line(tmp_path: Path, text: str) -> None:
    init = tmp_path / "recipes" / "__init__.py"
    init.parent.mkdir()
    init.write_text(text)
    shown = elsewhere(tmp_path, "--help")
    assert shown.returncode == 0
    (warning,) = (line for line in shown.stderr.splitlines() if line != "1")
    commands = "config, demo, evaluate, faces, inputs, tsmr"
    assert warning.startswith(f"reparam-kit: warning: no command {commands}: recipes.tsmr.config_cli:config ")
    assert f"recipes is {init}, another one: install reparam-kit in an environment of its own" in warning
    assert "\n  inspect " in shown.stdout
    called = elsewhere(tmp_path, "tsmr", "--help")
    assert called.returncode == 2
    (line,) = (line for line in called.stderr.splitlines() if line != "1")
    assert line.startswith("reparam-kit: no command tsmr: recipes.tsmr.cli:tsmr cannot be loaded: ")


@pytest.mark.parametrize("entries", [b"[reparam_kit.commands]\nnonsense\n", b"[a]\nx = \xff\xfe\n"])
def test_a_damaged_list_of_entry_points_hides_no_command(here: Path, entries: bytes) -> None:
    install(here, entries)
    shown = run("--help")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "\n  tsmr " in shown.stdout


BLUR = """
import torch
from reparam_kit.algebra.factors import Fixed
from reparam_kit.algebra.presets import Preset
class Blur(Fixed, name="blur"):
    def filter(self, taps): return torch.ones(taps, dtype=torch.float64)
MINE = Preset("conv(k) + conv(1) >> blur", "own")
"""
ADDED = b"[reparam_kit.factors]\nblur = plug.cli:Blur\n[reparam_kit.presets]\nmine = plug.cli:MINE\n"


def test_a_factor_and_a_preset_of_another_package(here: Path) -> None:
    install(here, ADDED, BLUR)
    assert str(block("mine")) == str(block("conv(k) + conv(1) >> blur")) == "conv(k) + conv(1) >> blur"
    net = small_onnx(here / "net.onnx")
    assert run("expand", net, "--block", "mine", "-o", here / "student.pt").exit_code == 0


def test_one_that_cannot_be_loaded_is_refused_with_the_reason(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(here, ADDED, "1 / 0")
    for expression, says in {
        "conv(k) + blur": "column 11: the factor 'blur' cannot be loaded: plug.cli:Blur: ZeroDivisionError: ",
        "mine": "the block 'mine' cannot be loaded: plug.cli:MINE: ZeroDivisionError: ",
    }.items():
        with pytest.raises(rk.ExpressionError, match=says):
            block(expression)
    assert str(block("dbb")).startswith("conv(k)")
    assert not caplog.records


def test_a_file_of_the_users_is_imported_where_asked_for(here: Path) -> None:
    net, own = small_onnx(here / "net.onnx"), here / "plug.py"
    own.write_text(BLUR)
    command = ["inspect", net, "--block", "conv(k) + conv(1) >> blur"]
    assert "there is no factor 'blur'" in run(*command).stderr
    assert "2 of 2 layers are expanded" in run(*command, "--import", own).stdout
    own.write_text("1 / 0")
    failed = run(*command, "--import", own)
    assert failed.exit_code == 2
    assert f"{own}, line 1: ZeroDivisionError" in failed.stderr


def test_a_preset_of_another_package_has_its_own_norm(here: Path) -> None:
    install(here, ADDED, BLUR.replace('"own")', '"own", "none")'))
    assert norm_of("mine") == "none"


def test_a_refused_one_is_a_line_of_the_command(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    install(here, ADDED, "1 / 0")
    (line,) = run("inspect", small_onnx(here / "net.onnx"), "--block", "mine").stderr.splitlines()
    assert line.startswith("reparam-kit: the block 'mine' cannot be loaded: plug.cli:MINE: ZeroDivisionError")
    with pytest.raises(rk.ExpressionError):
        block("mine")
    assert capfd.readouterr().err == ""


NOT_OURS = {
    "a name that is taken": ("dbb", "MINE", "cannot be the block 'dbb', which is Preset("),
    "a name with a sign": ("my-block", "MINE", "is no name: use letters, digits and _"),
}


@pytest.mark.parametrize("kind", NOT_OURS)
def test_a_name_that_cannot_be_had_takes_none_away(here: Path, kind: str) -> None:
    name, thing, reason = NOT_OURS[kind]
    install(here, f"[reparam_kit.presets]\n{name} = plug.cli:{thing}\n".encode(), BLUR)
    assert norm_of("nothing") == "scale"  # which looks for it
    assert len(block("dbb").terms) == 4
    assert reason in PRESETS._broken[name]


def test_that_a_name_is_taken_is_told_once(here: Path) -> None:
    install(here, b"[reparam_kit.presets]\ndbb = plug.cli:MINE\n", BLUR)
    (line,) = run("inspect", small_onnx(here / "net.onnx"), "--block", "nothing").stderr.splitlines()[:-1]
    assert line.startswith("reparam-kit: warning: plug.cli:MINE is left out: ")


def test_what_brings_nothing_of_its_name_says_so(here: Path) -> None:
    install(here, b"[reparam_kit.factors]\nblur = plug.cli:Blur\n", "def Blur(): pass")
    refused = run("inspect", small_onnx(here / "net.onnx"), "--block", "conv(k) + blur")
    assert "the factor 'blur' cannot be loaded: plug.cli:Blur brings no factor of that name" in refused.stderr


def test_images_are_read_by_the_first_that_can_be_loaded(here: Path) -> None:
    install(here, b"[reparam_kit.images]\nmine = plug.cli:run\n", "1 / 0")
    command = ["verify", "a.onnx", "a.onnx", "--calibration", here / "none", "--input", "raw"]
    assert "plug" not in run(*command).stderr
