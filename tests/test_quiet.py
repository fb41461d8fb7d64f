"""What libraries say on the command line: nothing unless it is asked for; ours and the user's own is always shown."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from reparam_kit.cli import main

LIBRARY = """
import logging, os, warnings
warnings.warn("the library warns")
logging.getLogger("lib").warning("the library logs")
os.environ.get("TORCH_CPP_LOG_LEVEL") == "ERROR" or os.write(2, b"the library prints\\n")
"""
RUNTIME = """
import os
os.write(2, b"[W:onnxruntime:Default, device_discovery.cc:164] GPU device discovery failed\\n")
def set_default_logger_severity(level): pass
"""
MINE = """
import logging, warnings
warnings.warn("mine warns")
logging.getLogger("mine").warning("mine logs")
"""
CODE = """
import logging, sys
import click
from reparam_kit.cli.group import Group
main = Group("main")
@main.command()
def run():
    import lib, onnxruntime, mine
    logging.getLogger("reparam_kit.onnx").warning("ours warns")
    click.echo("done")
from reparam_kit.cli.quiet import with_verbose
with_verbose(main)
main(sys.argv[1:])
"""
LOUD = ["the library warns", "the library logs", "the library prints", "GPU device discovery failed"]
OURS = ["mine warns", "mine: warning: mine logs", "reparam-kit: warning: ours warns"]


def said(words: str, folder: Path, **env: str) -> str:
    """What a command that uses a library, onnxruntime and a file of the user's prints on standard error."""
    for name, text in {
        "site-packages/lib.py": LIBRARY,
        "onnxruntime/__init__.py": RUNTIME,
        "mine.py": MINE,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    path = os.pathsep.join(map(str, [folder, folder / "site-packages", *sys.path]))
    known = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONWARNINGS", "TORCH_CPP_LOG_LEVEL")
    }
    result = subprocess.run(
        [sys.executable, "-c", CODE, *words.split()],
        env={**known, "PYTHONPATH": path, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "done\n"
    return result.stderr


def test_libraries_say_nothing_and_we_and_the_user_s_files_do(tmp_path: Path) -> None:
    shown = said("run", tmp_path)
    assert [text for text in LOUD if text in shown] == []
    assert [text for text in OURS if text in shown] == OURS


@pytest.mark.parametrize("words", ["run -v", "--verbose run"])
def test_all_is_shown_where_it_is_asked_for(words: str, tmp_path: Path) -> None:
    shown = said(words, tmp_path)
    assert [text for text in LOUD + OURS if text in shown] == LOUD + OURS
    assert shown.count("ours warns") == shown.count("the library logs") == 1


def test_what_the_user_has_set_stands(tmp_path: Path) -> None:
    shown = said("run", tmp_path, PYTHONWARNINGS="default", TORCH_CPP_LOG_LEVEL="INFO")
    assert "the library warns" in shown
    assert "the library prints" in shown
    assert "the library logs" not in shown


def commands(group: click.Group, context: click.Context) -> Iterator[click.Command]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield command
        if isinstance(command, click.Group):
            yield from commands(command, context)


def test_every_command_takes_the_option_once() -> None:
    context = click.Context(main)
    for command in [main, *commands(main, context), *commands(main, context)]:
        assert [param.opts for param in command.params].count(["-v", "--verbose"]) == 1, command.name
