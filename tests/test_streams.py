"""Standard streams that are closed, full or gone, and signals: a line or silence, and a sensible exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_formats import small_onnx

ROOT = Path(__file__).parents[1]
SHELL = f"{sys.executable} -c 'from reparam_kit.cli import main; main()'"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def shell(command: str, folder: Path, unbuffered: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


@pytest.mark.parametrize(
    ("words", "unbuffered", "code", "line"),
    [
        ("inspect a.onnx > /dev/full", "", 2, "standard output: No space left"),
        ("diff a.onnx a.onnx > /dev/full", "1", 2, "standard output: No space left"),
        ("--help > /dev/full", "", 2, "standard output: No space left"),
        ("diff a.onnx a.onnx | true", "", 141, ""),
        ("diff a.onnx a.onnx <&- >&- 2>&-", "", 0, ""),
        ("diff a.onnx no.onnx 2> /dev/full", "", 2, ""),
        ("diff a.onnx no.onnx > /dev/full 2>&1", "1", 2, ""),
    ],
)
def test_a_stream_that_takes_nothing(
    tmp_path: Path, words: str, unbuffered: str, code: int, line: str
) -> None:
    small_onnx(tmp_path / "a.onnx")
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    ended = shell(f"set -o pipefail; {SHELL} {words}", tmp_path, unbuffered)
    assert ended.returncode == code, ended.stderr
    assert line in ended.stderr
    assert len(ended.stderr.splitlines()) == bool(line)


def test_a_file_does_not_take_what_is_meant_for_a_closed_stream(tmp_path: Path) -> None:
    """Without standard streams, the first file that is opened would be the one that C libraries print to."""
    small_onnx(tmp_path / "a.onnx")
    ended = shell(f"{SHELL} expand a.onnx -o bare.pt <&- >&- 2>&-", tmp_path)
    assert ended.returncode == 0
    folded = shell(f"{SHELL} fold bare.pt -o b.onnx <&- >&- 2>&- && cmp a.onnx b.onnx", tmp_path)
    assert folded.returncode == 0, folded.stdout + folded.stderr


WRITING = """
import os, signal, sys, time
from pathlib import Path
import click
from reparam_kit.atomic import atomic_file
from reparam_kit.cli import main

@main.command()
def wait():
    with atomic_file("out.bin") as file:
        file.write(b"half")
        Path("started").touch()
        {body}

main(["wait"])
"""
SIGNALS = ("INT", "TERM", "HUP", "USR1")
FORKED = "os.fork(); time.sleep(600)"


def started(folder: Path, body: str, ignored: frozenset[str] = frozenset()) -> subprocess.Popen[str]:
    """Start ``body`` with the signals ``ignored`` and no other, whatever those of this process are: a shell starts in
    the background what ignores SIGINT, and nohup what ignores SIGHUP.
    """

    def set_signals() -> None:
        for name in SIGNALS:
            signal.signal(
                getattr(signal, f"SIG{name}"), signal.SIG_IGN if name in ignored else signal.SIG_DFL
            )

    process = subprocess.Popen(
        [sys.executable, "-c", WRITING.format(body=body)],
        cwd=folder,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=set_signals,
    )
    await_file(folder / "started", process)
    return process


def await_file(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until ``process`` has written ``path``, and for the sleep that comes next."""
    end = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < end, f"no file {path.name}"
        time.sleep(0.01)
    time.sleep(0.05)


@pytest.mark.parametrize("body", ["time.sleep(600)", FORKED], ids=["alone", "with a worker"])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_ends_a_command_in_one_line_and_leaves_no_temporary(
    tmp_path: Path, name: str, body: str
) -> None:
    number = getattr(signal, f"SIG{name}")
    process = started(tmp_path, body)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    by = "" if name == "INT" else f" by SIG{name}"
    assert said == f"reparam-kit: interrupted{by}; nothing was left half written\n"
    assert [path.name for path in tmp_path.iterdir()] == ["started"]


@pytest.mark.parametrize("where", ["finally", "end"])
def test_a_second_signal_ends_what_hangs(tmp_path: Path, where: str) -> None:
    """While it is cleared up, and after that."""
    hang = {
        "finally": "\n        try: time.sleep(600)\n        finally: Path('caught').touch(); time.sleep(600)",
        "end": "import atexit; atexit.register(lambda: (Path('caught').touch(), time.sleep(600))); time.sleep(600)",
    }[where]
    process = started(tmp_path, hang)
    process.send_signal(signal.SIGINT)
    await_file(tmp_path / "caught", process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said == "reparam-kit: interrupted; nothing was left half written\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caught", "started"]


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As nohup leaves it."""
    process = started(tmp_path, "time.sleep(0.5)", frozenset({"HUP"}))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert (tmp_path / "out.bin").read_bytes() == b"half"
