from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from reparam_kit.atomic import atomic_file, atomic_path, atomic_paths
from reparam_kit.errors import InputError


@pytest.mark.parametrize("existing", [None, b"old"])
def test_body_that_succeeds_becomes_the_file(tmp_path: Path, existing: bytes | None) -> None:
    target = tmp_path / "weights.bin"
    if existing is not None:
        target.write_bytes(existing)
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert target.exists() is (existing is not None)
    assert target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]


@pytest.mark.parametrize("existing", [None, b"old"])
def test_body_that_fails_leaves_what_was_there(tmp_path: Path, existing: bytes | None) -> None:
    target = tmp_path / "weights.bin"
    if existing is not None:
        target.write_bytes(existing)

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if existing is None else [existing])


def test_temporary_has_the_suffix_and_the_folder_of_the_target(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "plot.png") as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".png")
        temporary.touch()


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_path(str(tmp_path / "atomic")) as temporary:
        temporary.touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(("target", "message"), [("absent/file", "does not exist"), (".", "is a folder")])
def test_unusable_target_is_refused_before_the_work(tmp_path: Path, target: str, message: str) -> None:
    with pytest.raises(InputError, match=message), atomic_path(tmp_path / target):
        pytest.fail("the body must not run")


def test_a_file_is_the_same_with_a_handle(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "weights.bin") as file:
        file.write(b"new")
        assert not (tmp_path / "weights.bin").exists()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]
    with pytest.raises(InputError, match="cannot be written"), atomic_file(tmp_path / "weights.bin" / "x"):
        pytest.fail("the body must not run")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755, 0o444])
def test_the_mode_of_a_replaced_file_stays(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "weights.bin"
    target.write_bytes(b"old")
    target.chmod(mode)
    if not os.access(target, os.W_OK):
        pytest.skip("refused, see below")
    with atomic_path(target) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == mode | stat.S_IWUSR  # no wider while it is written
        temporary.write_bytes(b"new")
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert target.read_bytes() == b"new"


def test_a_new_file_has_the_mode_that_umask_leaves(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "new") as temporary:
            temporary.write_bytes(b"new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "weights.bin"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as it answers another user than root
    with pytest.raises(InputError, match="may not be written to"), atomic_path(target):
        pytest.fail("the body must not run")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, there: bool, absolute: bool) -> None:
    (tmp_path / "store").mkdir()
    target = tmp_path / "store" / "v1.bin"
    if there:
        target.write_bytes(b"old")
    link, second = tmp_path / "current.bin", tmp_path / "latest.bin"
    link.symlink_to(target if absolute else Path("store") / "v1.bin")
    second.symlink_to("current.bin")
    with atomic_path(second) as temporary:
        assert temporary.parent == target.parent  # on the file system that it is moved in
        temporary.write_bytes(b"new")
    assert second.is_symlink()
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "current.bin",
        "latest.bin",
        "store",
        "v1.bin",
    ]


def test_a_second_name_keeps_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    os.link(tmp_path / "a", tmp_path / "b")
    with atomic_file(tmp_path / "a") as file:
        file.write(b"new")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"new", b"old")


@pytest.mark.parametrize("name", ["n" * 250 + ".onnx", "n" * 255, "a." + "n" * 253])
def test_the_longest_names_can_be_written(tmp_path: Path, name: str) -> None:
    with atomic_file(tmp_path / name) as file:
        file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("n" * 256, "too long"),
        ("a\0b", "null byte"),
        ("file/x", "does not exist|no folder"),
        ("loop", "it is a link that leads to itself"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_the_work(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=says), atomic_path(tmp_path / name):
        pytest.fail("the body must not run")


def test_what_is_written_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real, move = os.fsync, Path.replace

    def fsync(file: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        real(file)

    def replace(path: Path, target: Path) -> Path:
        done.append("replace")
        return move(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic_file(tmp_path / "weights.bin") as file:
        file.write(b"new")
    assert done == ["file", "replace", "folder"]


@pytest.mark.parametrize("at", range(4))
def test_files_that_belong_together_are_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Cut off at each step of the end, the first file is the old one beside old ones, the new beside new, or gone."""
    paths = [tmp_path / name for name in ("model", "data.0", "data.1")]
    for path in paths:
        path.write_bytes(b"old")
    real, moves = Path.replace, 0

    def replace(path: Path, target: Path) -> Path:
        nonlocal moves
        if moves == at:
            raise KeyboardInterrupt
        moves += 1
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with suppress(KeyboardInterrupt), atomic_paths(paths) as temporaries:
        for temporary in temporaries:
            temporary.write_bytes(b"new")
    found = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(found) <= {path.name for path in paths}
    if "model" in found:
        assert set(found.values()) == {found["model"]}
    assert ("model" in found) == (at == 3)


def test_an_exit_in_the_middle_of_the_clearing_leaves_no_temporary(tmp_path: Path) -> None:
    """As a second Ctrl-C does."""
    code = (
        "from pathlib import Path; from reparam_kit.atomic import atomic_path\n"
        "def unlink(*_, **__): raise KeyboardInterrupt\n"
        "real, Path.unlink = Path.unlink, unlink\n"
        "try:\n"
        "    with atomic_path('out.bin') as temporary: raise KeyboardInterrupt\n"
        "except KeyboardInterrupt: Path.unlink = real; assert temporary.exists()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
