"""Which files of a folder of people are read, in which order, and what is said of the rest."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.faces import Faces, read_faces, write_records
from reparam_kit import InputError, printable

FORMATS = {
    "a.jpg": "JPEG", "b.JPEG": "JPEG", "c.jpe": "JPEG", "d.jfif": "JPEG", "e.png": "PNG", "f.WebP": "WEBP",
    "g.bmp": "BMP", "h.tif": "TIFF", "i.TIFF": "TIFF",
}  # fmt: skip


def put(path: Path, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(path, kind)
    return path


def shown(faces: Faces, root: Path) -> list[tuple[str, int]]:
    return [(os.path.relpath(faces.where(i), root), faces.label(i)) for i in range(len(faces))]


def test_every_format_is_read(tmp_path: Path) -> None:
    for name, kind in FORMATS.items():
        put(tmp_path / "anna" / name, kind)
    faces = read_faces(tmp_path)
    assert shown(faces, tmp_path) == [(f"anna/{name}", 0) for name in sorted(FORMATS)]
    assert all(abs(int(image.float().mean()) - 90) <= 1 for image, _, _ in faces)


def test_what_is_passed_over_is_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "anna" / "1.png")
    for place in ("loose.png", ".hidden.png", ".hidden/1.png", "anna/.thumbnails/1.png", "anna/._1.png"):
        put(tmp_path / place)
    for place in (
        "anna/notes.TXT",
        "anna/b/more.txt",
        "anna/film.gif",
        "anna/README",
        "bmps.bmp2",
        "people.csv",
    ):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    (tmp_path / "bert").mkdir()
    (tmp_path / "anna" / "broken.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "anna" / "pipe.png")
    assert len(read_faces(tmp_path)) == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message == (
        f"{tmp_path}: passed over 4 hidden, 2 broken links, pipes or devices, 2 .txt, 1 without a suffix, 1 .gif, "
        "1 people without an image, 1 .bmp2, 1 images in the folder itself, of no person, and 1 of other kinds"
    )


def test_nothing_is_said_where_all_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "anna" / "1.png")
    read_faces(tmp_path)
    assert not caplog.records


def test_links_are_followed_and_lead_into_no_circle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, elsewhere = tmp_path / "people", tmp_path / "elsewhere"
    put(root / "anna" / "1.png")
    put(root / "bert" / "1.png")
    put(elsewhere / "2.png")
    put(elsewhere / "deep" / "3.png")
    (root / "anna" / "session").symlink_to(elsewhere)
    (root / "cleo").symlink_to(elsewhere)
    (root / "bert" / "linked.jpg").symlink_to(elsewhere / "2.png")
    (elsewhere / "deep" / "up").symlink_to(elsewhere)
    for name, target in {"self": ".", "root": "..", "top": "/"}.items():
        (root / "bert" / name).symlink_to(target)
    faces = read_faces(root)
    assert shown(faces, root) == [
        ("anna/1.png", 0),
        ("anna/session/2.png", 0),
        ("anna/session/deep/3.png", 0),
        ("bert/1.png", 1),
        ("bert/linked.jpg", 1),
        ("cleo/2.png", 2),
        ("cleo/deep/3.png", 2),
    ]
    assert "5 links to folders that were read" in caplog.text


def test_folders_that_link_to_each_other_are_read_once_each(tmp_path: Path) -> None:
    """Read along every path, twelve folders would be four hundred million."""
    for one in range(12):
        put(tmp_path / "anna" / str(one) / f"{one}.png")
        for other in set(range(12)) - {one}:
            (tmp_path / "anna" / str(one) / f"to{other}").symlink_to(tmp_path / "anna" / str(other))
    assert sorted(Path(read_faces(tmp_path).where(i)).name for i in range(12)) == sorted(
        f"{i}.png" for i in range(12)
    )
    assert len(read_faces(tmp_path)) == 12


def test_names_of_any_bytes(tmp_path: Path) -> None:
    try:
        put(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9\x1b[31m", b"\xff 1.png"))))  # noqa: PTH118
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    faces = read_faces(tmp_path)
    assert faces[0][0].shape == (3, 8, 8)
    assert printable(faces.where(0)).isascii()


def test_a_person_called_by_a_negative_number_is_not_known(tmp_path: Path) -> None:
    for person in ("-1", "-x", "0", "b"):
        put(tmp_path / person / "1.png")
    faces = read_faces(tmp_path)
    assert shown(faces, tmp_path) == [("-1/1.png", -1), ("-x/1.png", 0), ("0/1.png", 1), ("b/1.png", 2)]
    assert faces.num_identities == 3


def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    put(tmp_path / "anna" / "1.png")
    (tmp_path / "anna" / "closed").mkdir(mode=0)
    if os.access(tmp_path / "anna" / "closed", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(InputError, match=r"the folder .*closed cannot be read: Permission denied"):
        read_faces(tmp_path)


def test_records_in_a_folder_with_people(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = put(tmp_path / "anna" / "1.png").read_bytes()
    write_records(tmp_path / "a.rec", [(4, image)])
    (tmp_path / "._a.rec").write_bytes(b"what another system left")
    assert len(read_faces(tmp_path)) == 1
    assert "its .rec files are read, and the folders beside them are not" in caplog.text
