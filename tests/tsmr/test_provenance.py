"""By what a run was made, and that it names neither the user nor the machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch

from recipes.tsmr import provenance
from recipes.tsmr.provenance import FileFacts, Provenance, unnamed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory below the home of eve, on the machine secret."""
    folder = tmp_path / "eve" / "work"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "eve"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "eve"))
    monkeypatch.setattr("getpass.getuser", lambda: "eve")
    monkeypatch.setattr("platform.node", lambda: "secret")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("HOME/work/a.onnx", "a.onnx"),
        ("--data=HOME/work/a.rec", "--data=a.rec"),
        ("HOME/work", "."),
        ("HOME/workshop/a", "~/workshop/a"),
        ("HOME", "~"),
        ("people:HOME/lfw.rec,HOME/work/b.rec", "people:~/lfw.rec,b.rec"),
        ("'HOME/a b.rec'", "'~/a b.rec'"),
        ("/home/bob/a.rec /Users/ann/b", "…/a.rec …/b"),
        (r"C:\Users\ann\b.rec", r"…\b.rec"),
        ("/scratch/eve/a /net/secret/b /mnt/steve/c", "/scratch/$USER/a /net/$HOSTNAME/b /mnt/steve/c"),
        ("models/eve/a.onnx ../HOMEs", "models/eve/a.onnx ../HOMEs"),
        ("https://host/home/page", "https://host/home/page"),
        ("retrieval:q,g", "retrieval:q,g"),
        ("mlflow:https://me:secret@host/x", "mlflow:https://host/x"),
    ],
)
def test_paths_name_nobody(here: Path, text: str, shown: str) -> None:
    assert unnamed(text.replace("HOME", str(here.parent))) == shown.replace("HOME", str(here.parent))


def test_what_is_there_is_said_and_who_is_not(here: Path) -> None:
    found = Provenance.of(torch.device("cpu"), [])
    assert {"reparam-kit", "Python", "torch", "onnx", "onnxruntime"} <= set(found.versions)
    assert found.machine["processor"]
    assert found.machine["device"] == "CPU"
    assert (found.git, found.command) == ("", "")
    told = json.dumps(found.to_json())
    assert not any(name in told for name in ("eve", "secret", str(here)))


def test_the_state_of_the_working_directory(here: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", *who, *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init")
    (here / "a.py").write_text("a")
    git("add", ".")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert provenance._git() == f"{commit}, no tracked file changed since"
    (here / "a.py").write_text("b")
    (here / "new.py").write_text("")
    assert provenance._git() == f"{commit}, 1 tracked files changed since"


def test_without_git_there_is_no_state(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance._git() == ""


def test_files_are_known_by_size_and_sha256(here: Path) -> None:
    (here / "a.onnx").write_bytes(b"abc")
    found = FileFacts.of("student", "a.onnx", "a.onnx")
    assert (found.size, found.sha256) == (3, hashlib.sha256(b"abc").hexdigest())
    assert FileFacts.of("images", here / "a.onnx", "a.onnx", read=False).sha256 == ""
    for other in (here, "nets:make", "no\0ne", torch.nn.Identity()):
        assert FileFacts.of("teacher", other, "it") == FileFacts("teacher", "it")
