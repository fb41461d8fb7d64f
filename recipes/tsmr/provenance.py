"""By what a run was made: versions, machine, command, state of the sources, and the files that went in and came out.

What is meant to be passed on names nobody: paths below the working directory or a home directory are written from
there, and neither the machine nor its user is named.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import torch

import reparam_kit as rk

_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")
_PATIENCE = 10  # seconds for git
_BEGINS = r"(?<![\w.~$/\\-])"  # where a path may begin
_ABSOLUTE = re.compile(rf"{_BEGINS}/[^\s,:;='\"]+")
_OTHERS = re.compile(rf"{_BEGINS}(?:/home|/Users|[A-Za-z]:[\\/]Users)[\\/][^\\/\s,:;'\"]+")  # homes


@dataclass(frozen=True)
class FileFacts:
    """What was read or written, as it was.

    Attributes:
        part: which part it has in the run, such as "teacher".
        name: its path, or what stands in the place of one.
        size: bytes; None of what is no file.
        sha256: of its bytes, as ``sha256sum`` prints it; empty where that was not asked for.
    """

    part: str
    name: str
    size: int | None = None
    sha256: str = ""

    @classmethod
    def of(cls, part: str, value: object, name: str, *, read: bool = True) -> FileFacts:
        """Look at ``value``, a path or something else; ``read`` it for its sha256."""
        if not isinstance(value, str | Path):
            return cls(part, name)
        with suppress(OSError, ValueError):
            path = Path(value)
            if path.is_file():
                return cls(part, name, path.stat().st_size, _sha256(path) if read else "")
        return cls(part, name)


@dataclass(frozen=True)
class Provenance:
    """By what a run was made.

    Attributes:
        finished: when, in UTC, to the minute.
        versions: by name, of Python and of the packages that compute.
        machine: system, processor, cores, and the device that trained.
        git: commit of the working directory, and how many tracked files differ from it; empty outside of a repository.
        command: the command line; empty of a call from Python.
        files: what was read, and what was written.
    """

    finished: str
    versions: dict[str, str]
    machine: dict[str, str]
    git: str
    command: str
    files: tuple[FileFacts, ...] = ()

    @classmethod
    def of(cls, device: torch.device, files: Iterable[FileFacts]) -> Provenance:
        """Look at what there is, now that ``device`` has trained."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return cls(now, _versions(), _machine(device), _git(), _command(), tuple(files))

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def unnamed(text: str) -> str:
    """Return ``text`` without names of the user and of the machine, and without passwords in addresses: paths below
    the working directory begin there, paths below a home directory at ``~``.

    >>> unnamed(f"--data {Path.cwd()}/faces.rec --val people:{Path.home()}/lfw.rec")
    '--data faces.rec --val people:~/lfw.rec'
    """
    for folder, inside, itself in _shortened():
        text = re.sub(rf"{_BEGINS}{re.escape(folder)}[\\/]", inside, text)
        text = re.sub(rf"{_BEGINS}{re.escape(folder)}(?![\w.-])", itself, text)
    text = re.sub(r"(?<=://)[^/\s@]+@", "", text)
    names = {_user(): "$USER", platform.node(): "$HOSTNAME"}
    text = _OTHERS.sub("\N{HORIZONTAL ELLIPSIS}", text)
    return _ABSOLUTE.sub(lambda path: "/".join(names.get(p) or p for p in path[0].split("/")), text)


def _shortened() -> Iterator[tuple[str, str, str]]:
    """Yield folders, and what is written for them and for the way to what is inside."""
    for find, inside, itself in ((Path.cwd, "", "."), (Path.home, "~/", "~")):
        with suppress(OSError, RuntimeError):  # it was removed, or the user has none
            if len(folder := str(find())) > 1:
                yield folder, inside, itself


def _user() -> str:
    with suppress(Exception):  # a number without a name: what is raised then differs by version
        return getpass.getuser()
    return ""


def _command() -> str:
    """Return the command line as a shell takes it, where a command runs and was not called by another program."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name not in sys.argv[1:]:
        return ""
    return unnamed(shlex.join([Path(context.find_root().info_name or sys.argv[0]).name, *sys.argv[1:]]))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    found = {"reparam-kit": rk.__version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found | {"torch": torch.__version__}


def _machine(device: torch.device) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": f"{cores}, of which torch uses {torch.get_num_threads()}",
        "device": name,
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin" and (name := _said("sysctl", "-n", "machdep.cpu.brand_string")):
        return name
    return platform.processor() or platform.machine()


def _git() -> str:
    commit = _said("git", "rev-parse", "--verify", "--quiet", "HEAD")
    if not commit:
        return ""
    changed = _said("git", "-c", "core.fsmonitor=false", "status", "--porcelain", "--untracked-files=no")
    if changed is None:
        return commit
    count = len(changed.splitlines())
    return (
        f"{commit}, {count} tracked files changed since"
        if count
        else f"{commit}, no tracked file changed since"
    )


def _said(*command: str) -> str | None:
    """Return what a program prints; None where it is not there, fails, or takes too long."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=True,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
