"""Memory of this process as Linux counts it."""

from __future__ import annotations

from pathlib import Path


def held() -> float:
    """MiB in use now."""
    return _status("VmRSS")


def peak() -> float:
    """Most MiB in use since the process began, or since ``start_peak``."""
    return _status("VmHWM")


def start_peak() -> None:
    """Let ``peak`` begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(what: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) / 1024
