"""Damaged files of every format that is read: one line or the right result, in a process of its own each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_no_damage_is_read_in_silence_or_ends_in_a_fault() -> None:
    """The small version of a command that takes minutes."""
    command = [sys.executable, "-m", "benchmarks.mutations", "--count", "8", "--seed", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 12
