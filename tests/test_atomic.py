from __future__ import annotations

from pathlib import Path

import pytest

from reparam_kit.atomic import atomic_file, atomic_path
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
