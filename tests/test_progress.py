"""What shows how far a run is: a bar where it can move, else lines that can be read in a file."""

from __future__ import annotations

import itertools
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from recipes import progress
from recipes.progress import Progress, labelled, live, watching
from recipes.tsmr.progress import LOGGER, warnings_shown

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.mark.parametrize(
    ("terminal", "env", "bar"),
    [
        (True, {}, True),
        (True, {"CI": "false", "NO_COLOR": ""}, True),
        (True, {"CI": "true"}, False),
        (True, {"CI": "1"}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1", "TERM": "xterm"}, False),
    ],
)
def test_a_bar_moves_in_a_terminal_alone(
    terminal: bool, env: dict[str, str], bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"CI": "", "NO_COLOR": "", "TERM": "xterm", **env}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    assert live() == bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds pass between any two looks at it."""
    ticks = itertools.count(0.0, 10.0)
    monkeypatch.setattr(Progress, "told", 0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


def test_in_a_log_file_a_pass_is_a_plain_line_now_and_then(
    clock: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = Progress()
    shown.until = 10_000.0
    with labelled("trial 1 of 2"), shown.task("teacher [bold]", 1000) as task:
        for _ in range(100):
            task.advance(10, "cosine 0.5")
    out, err = capfd.readouterr()
    assert out == ""
    *lines, last = err.splitlines()
    assert 5 < len(lines) < 100
    for line in lines:
        pace = r"teacher \[bold\]: \d+ of 1,000 images, \d+ images/s, ETA \d\d:\d\d"
        left = r"budget left \d:\d\d:\d\d, memory \d+\.\d [kMG]B, cosine 0.5"
        assert re.fullmatch(rf"{STAMP}trial 1 of 2: {pace}, {left}", line), line
    assert re.fullmatch(rf"{STAMP}trial 1 of 2: teacher \[bold\]: 1,000 images, \d+ images/s", last)
    assert not {"\r", "\x1b"} & set(err)


def test_the_time_of_the_run_is_that_of_its_passes(clock: None) -> None:
    task = Progress(silent=True).begin("epoch 1/3", 100, further=2, each=50.0)
    task.advance(50)
    known = re.search(r"ETA (\S+), of the run (\S+),", task.state())
    assert known is not None
    of_pass, of_run = (
        sum(int(n) * 60**i for i, n in enumerate(reversed(t.split(":")))) for t in known.groups()
    )
    assert of_run - of_pass == 100


CODE = """
import time
from recipes.progress import Progress, labelled
progress = Progress()
with labelled("run 1 of 2"), progress.task("epoch 1/1", 100) as task:
    for _ in range(10):
        task.advance(10, "cosine 0.5")
        time.sleep(0.03)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_in_a_terminal_a_bar_moves_and_goes(tmp_path: Path) -> None:
    import pty

    main, end = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    env |= {"TERM": "xterm", "COLUMNS": "140", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", CODE], env=env, stderr=end, stdout=end, check=True)
    os.close(end)
    said = b""
    while True:
        try:
            said += os.read(main, 4096)
        except OSError:  # all is read, and nobody writes any more
            break
        if b"images/s\r\n" in said:
            break
    os.close(main)
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", said.decode())
    assert re.search(
        r"run 1 of 2: epoch 1/1 .*%  ?\d+ images/s, ETA \d\d:\d\d, memory [\d.]+ [MG]B, cosine 0.5", text
    )
    assert re.search(r"\rrun 1 of 2: epoch 1/1: 100 images, \d+ images/s\r\n$", text)


def test_all_that_is_said_is_logged_and_shown_where_it_is_asked_for(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "recipes"), labelled("run 1 of 2"):
        Progress(silent=True).say("chosen: lr 0.1")
    assert caplog.messages == ["run 1 of 2: chosen: lr 0.1"]
    assert capfd.readouterr() == ("", "")


def test_warnings_are_labelled_too(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings_shown(), labelled("run 1 of 2"):
        LOGGER.warning("two\nlines")
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(rf"{STAMP}WARNING: run 1 of 2: two.*lines\n", err)


def test_what_embeds_images_shows_it_within_a_run() -> None:
    shown = Progress()
    assert watching(asked=False).silent
    with shown.shown():
        assert watching(asked=False) is shown
    assert not watching(asked=True).silent


def test_in_a_narrow_terminal_the_end_of_the_line_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "live", lambda: True)
    for name, value in {"COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    for total, start in (
        (1000, "epoch 1/3 [x] \u2501\u2501\u2501\u2501 50% "),
        (None, "epoch 1/3 [x]  500 images "),
    ):
        task = Progress().begin("epoch 1/3 [x]", total)
        assert task._bars is not None
        task.advance(500, "a note " * 20)
        task.stop()
        with task._bars.console.capture() as shown:
            task._bars.console.print(task._bars.make_tasks_table(task._bars.tasks))
        (line,) = shown.get().splitlines()
        assert line.startswith(start), line
        assert len(line) <= 80
        assert line.endswith("\u2026")
