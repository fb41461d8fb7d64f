"""Lists of training images: which file a line opens, and what its label is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.faces import Faces, read_faces, read_pairs
from reparam_kit import InputError

NAMES = [
    "a b.jpg", "a  b.jpg", " a.jpg", "a'b\".jpg", "#1.jpg", "张\u3000三.jpg", "a\u00a0b.jpg", "deep/a b/1.jpg", "ü.jpg",
    "\udcff.jpg",
]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for shade, name in enumerate(NAMES):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 10 * shade, np.uint8)).save(file, "PNG")
    return tmp_path


def listed(root: Path, text: str) -> Path:
    (root / "list.txt").write_bytes(os.fsencode(text))
    return root / "list.txt"


def shades(faces: Faces) -> list[int]:
    return [int(image[0, 0, 0]) // 10 for image, _, _ in faces]


@pytest.mark.parametrize("between", ["\t", " ", "   ", " \t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("form", ["relative", "absolute", "up"])
def test_the_file_that_a_line_names(root: Path, between: str, end: str, start: str, form: str) -> None:
    prefix = {"relative": "", "absolute": f"{root}/", "up": f"../{root.name}/deep/../"}[form]
    path = listed(root, start + "".join(f"{prefix}{name}{between}{i}{end}" for i, name in enumerate(NAMES)))
    faces = read_faces(path)
    assert shades(faces) == list(range(len(NAMES)))
    assert [faces.label(i) for i in range(len(faces))] == list(range(len(NAMES)))


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_pairs_of_names_with_spaces_between_tabs(root: Path, start: str) -> None:
    path = listed(root, start + "".join(f"{name}\t{NAMES[0]}\t{i % 2}\r\n" for i, name in enumerate(NAMES)))
    pairs = read_pairs(path)
    assert pairs.images[0::2] == [(root / name).read_bytes() for name in NAMES]
    assert pairs.same.tolist() == [False, True] * (len(NAMES) // 2)


def test_two_lines_a_pair_of_names_with_spaces(root: Path) -> None:
    path = listed(root, "a b.jpg\t1\na  b.jpg\t1\na b.jpg\t0\ndeep/a b/1.jpg\t0\n")
    pairs = read_pairs(path)
    assert pairs.images[1] == (root / "a  b.jpg").read_bytes()
    assert pairs.same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (["3", "-1", "3", "-7"], [0, -1, 0, -1]),
        (["anna", "-1", "bert", "anna"], [0, -1, 1, 0]),
        (["-1", "-1", "-1", "-1"], [-1, -1, -1, -1]),
        (["10", "9", "x", "9"], [0, 1, 2, 1]),
        (["1_0", "10", "1_0", "1e1"], [1, 0, 1, 2]),
        (["nan", "anna", "1.5", "1"], [3, 2, 1, 0]),
        (["9" * 18, "8", "1", "0"], [3, 2, 1, 0]),
    ],
)
def test_labels(root: Path, labels: list[str], wanted: list[int]) -> None:
    path = listed(root, "".join(f"{name}\t{label}\n" for name, label in zip(NAMES, labels, strict=False)))
    faces = read_faces(path)
    assert [label for _, label, _ in faces] == [faces.label(i) for i in range(4)] == wanted
    assert faces.num_identities == len(set(wanted) - {-1})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no.jpg\t1", r"list\.txt:2: .*no\.jpg: no such file"),
        ("a b.jpg", r"list\.txt:2: .*a: no such file"),  # a name and no label: `b.jpg` is taken for one
        ("deep\t1", r"list\.txt:2: .*deep is a folder"),
        ("pipe\t1", r"list\.txt:2: .*pipe is a device, a pipe or a socket"),
        ("/dev/zero\t1", r"list\.txt:2: /dev/zero is a device, a pipe or a socket"),
        ("x" * 300 + "\t1", r"list\.txt:2: .*x+: File name too long"),
        ("1\ta b.jpg\t5", r"list\.txt:2 is not `path label`, with a tab or spaces between"),
        ("7", r"list\.txt:2 is not `path label`"),
        ("a b.jpg\t1.5", r"list\.txt:2 has the label 1\.5, not a whole number"),
        ("a b.jpg\tnan", r"list\.txt:2 has the label nan, not a whole number"),
        ("a b.jpg\t" + "9" * 5000, r"list\.txt:2 has the label 9+"),
        ("a b.jpg\t1\0", r"list\.txt:2 is not text in UTF-8: it holds a zero byte"),
    ],
)
def test_a_wrong_line_is_named(root: Path, line: str, message: str) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(InputError, match=message):
        read_faces(listed(root, f"a b.jpg\t1\n{line}\na b.jpg\t1\n"))


@pytest.mark.parametrize("line", ["1\ta b.jpg\t5", "0\t5.000000\ta b.jpg", "1\ta b.jpg\t5\t1\t2\t3\t4"])
def test_columns_of_mxnet_are_told(root: Path, line: str) -> None:
    (root / "train.lst").write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"train\.lst:1 has the columns of MXNet's lists, .* name the \.rec"):
        read_faces(root / "train.lst")
    (root / "train.lst").write_text("a b.jpg 5\na b.jpg\t6\n")
    assert len(read_faces(root / "train.lst")) == 2


def test_the_one_kind_of_set_in_the_place_of_the_other_is_told(tmp_path: Path) -> None:
    for name in ("pairs.bin", "faces.rec", "faces.idx"):
        (tmp_path / name).write_bytes(b"\0" * 8)
    with pytest.raises(InputError, match=r"pairs\.bin is a verification set .*, not training data"):
        read_faces(tmp_path / "pairs.bin")
    for name in ("faces.rec", "faces.idx"):
        with pytest.raises(InputError, match=rf"{name} is training data .*, not a verification set"):
            read_pairs(tmp_path / name)
    with pytest.raises(
        InputError, match=r"nope: no such file; name a \.rec file, a folder of people, or a list"
    ):
        read_faces(tmp_path / "nope")
    with pytest.raises(InputError, match=r"nope\.rec: no such file; name a verification set"):
        read_pairs(tmp_path / "nope.rec")


def test_pipes_and_devices_are_no_lists(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_faces, read_pairs):
        for path in (tmp_path / "pipe", Path("/dev/zero")):
            with pytest.raises(InputError, match="is a device, a pipe or a socket"):
                read(path)
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'pipe'} {tmp_path / 'pipe'} 1\n")
    with pytest.raises(InputError, match=r"list\.txt:1: .*pipe is a device, a pipe or a socket"):
        read_pairs(tmp_path / "list.txt")
