from __future__ import annotations

import os
from pathlib import Path

import pytest

from reparam_kit import InputError, require_file


def test_a_file_and_a_link_to_one_may_be_opened(tmp_path: Path) -> None:
    file, link = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"x")
    link.symlink_to(file)
    assert require_file(str(file)) == file
    assert require_file(link) == link


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "no such file"),
        (Path.mkdir, "is a folder"),
        (make_pipe, "a device, a pipe or a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, a pipe or a socket"),
        (lambda path: path.symlink_to(path), "Too many levels"),
    ],
)
def test_whatever_else_is_there_is_refused_before_it_is_opened(tmp_path: Path, make, reason: str) -> None:
    path = tmp_path / "model.onnx"
    make(path)
    with pytest.raises(InputError, match=f"{reason}.*; name an .onnx file"):
        require_file(path, "an .onnx file")


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(InputError, match="null"):
        require_file("a\0b")
