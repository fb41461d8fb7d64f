"""A table on disk gives the embeddings that are computed anew, whatever happened to the file since it was written."""

from __future__ import annotations

import os
import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from damage import DAMAGE, Damage
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset

from recipes.faces import Embedder, input_preset
from recipes.progress import Progress
from recipes.tsmr.distributed import ALONE, Processes
from recipes.tsmr.targets import passes
from recipes.tsmr.targets.passes import Net, embedding_tables
from recipes.tsmr.targets.showing import Showing
from recipes.tsmr.targets.table import BLOCK
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError

IMAGES = 3 * BLOCK + 7
Rows: TypeAlias = npt.NDArray[np.float16]
Whole: TypeAlias = tuple[bytes, Rows, str]  # a file, its rows, its name


class Pictures(Dataset[tuple[Tensor, int, int]]):
    pixels = torch.randint(
        256, (IMAGES, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.pixels[index], 0, index


class Teacher(nn.Module):
    """Counts the images that it is given, and stops when there are more than ``limit``."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.head = nn.Linear(48, 6, bias=False)
        with torch.no_grad():
            self.head.weight.normal_(generator=torch.Generator().manual_seed(seed))
        self.seen: list[int] = []
        self.limit: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if self.limit and sum(self.seen) > self.limit[0]:
            raise KeyboardInterrupt
        return self.head(x.flatten(1))


def table(
    folder: Path,
    teacher: Teacher,
    of: str = "teacher",
    data: str = "data",
    processes: Processes = ALONE,
) -> Rows:
    teacher.seen.clear()
    embed = Embedder(teacher, input_preset("raw"))
    showing = Showing(Views(Pictures()), flip=True)
    (rows,) = embedding_tables(
        [Net(embed, of)], showing, data, folder, workers=0, progress=Progress(), processes=processes
    )
    return rows


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    rows = np.array(table(folder, Teacher()))
    (path,) = folder.iterdir()
    return path.read_bytes(), rows, path.name


def test_the_file_is_an_array_for_anything_that_reads_one(expected: Whole, tmp_path: Path) -> None:
    content, rows, _ = expected
    (tmp_path / "t.npy").write_bytes(content)
    assert np.array_equal(np.load(tmp_path / "t.npy"), rows)
    assert np.array_equal(np.load(tmp_path / "t.npy", mmap_mode="r"), rows)


def test_a_damaged_table_gives_the_same_rows(expected: Whole, tmp_path: Path) -> None:
    content, rows, name = expected

    @settings(max_examples=60)
    @given(DAMAGE)
    def check(damage: Damage) -> None:
        (tmp_path / name).write_bytes(damage(content))
        assert np.array_equal(table(tmp_path, Teacher()), rows)
        assert (tmp_path / name).read_bytes() == content

    check()


def saved(change: Callable[[Rows], npt.ArrayLike]) -> Callable[[Path, Rows], None]:
    return lambda path, rows: np.save(path, np.asarray(change(rows.copy())))


@pytest.mark.parametrize(
    "write",
    [
        saved(lambda rows: rows[::-1]),
        saved(np.zeros_like),
        saved(lambda rows: rows[:100]),
        saved(lambda rows: np.concatenate([rows, rows])),
        saved(lambda rows: rows[:, :1]),
        saved(lambda rows: rows[..., :3]),
        saved(lambda rows: rows.astype(np.float32)),
        saved(lambda rows: np.full(rows.shape, np.nan, np.float16)),
        saved(lambda rows: 3),
        lambda path, rows: path.write_bytes(b"hello"),
        lambda path, rows: path.symlink_to("/nowhere/at/all"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_written_anew(
    expected: Whole,
    tmp_path: Path,
    write: Callable[[Path, Rows], None],
) -> None:
    content, rows, name = expected
    write(tmp_path / name, rows)
    assert np.array_equal(table(tmp_path, Teacher()), rows)
    assert (tmp_path / name).read_bytes() == content


def test_a_link_in_its_place_is_replaced_and_what_it_leads_to_is_left(
    expected: Whole, tmp_path: Path
) -> None:
    (tmp_path / "other").write_text("of the user")
    (tmp_path / expected[2]).symlink_to(tmp_path / "other")
    assert np.array_equal(table(tmp_path, Teacher()), expected[1])
    assert (tmp_path / "other").read_text() == "of the user"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_a_line(expected: Whole, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / expected[2])
    with pytest.raises(InputError, match="teacher-"):
        table(tmp_path, Teacher())


def test_one_damaged_block_is_computed_again_and_no_other(
    expected: Whole,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    content, rows, name = expected
    at = 128 + rows[: BLOCK + 3].nbytes
    (tmp_path / name).write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    teacher = Teacher()
    assert np.array_equal(table(tmp_path, teacher), rows)
    assert sum(teacher.seen) == 2 * (8 + BLOCK)
    assert "3 of its 4 blocks are there and sound, the others are computed" in capfd.readouterr().err


def test_two_blocks_that_changed_places_do_not_count(expected: Whole, tmp_path: Path) -> None:
    content, rows, name = expected
    block = rows[:BLOCK].nbytes
    parts = [content[128 + i * block : 128 + (i + 1) * block] for i in range(2)]
    sums = content[128 + rows.nbytes :]
    swapped = content[:128] + parts[1] + parts[0] + content[128 + 2 * block : 128 + rows.nbytes]
    (tmp_path / name).write_bytes(swapped + sums[32:64] + sums[:32] + sums[64:])
    assert np.array_equal(table(tmp_path, Teacher()), rows)


def test_an_interrupted_pass_goes_on_where_it_was(expected: Whole, tmp_path: Path) -> None:
    content, rows, name = expected
    teacher = Teacher()
    teacher.limit = [2 * (1 + 2 * BLOCK)]  # one to see what it gives
    with pytest.raises(KeyboardInterrupt):
        table(tmp_path, teacher)
    again = Teacher()
    assert np.array_equal(table(tmp_path, again), rows)
    assert sum(again.seen) == 2 * (8 + IMAGES - 2 * BLOCK)
    assert (tmp_path / name).read_bytes() == content


def test_a_table_of_another_is_not_taken_for_this_one(expected: Whole, tmp_path: Path) -> None:
    table(tmp_path, Teacher(), data="other images")
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / expected[2])
    teacher = Teacher()
    assert np.array_equal(table(tmp_path, teacher), expected[1])
    assert sum(teacher.seen) == 2 * (1 + IMAGES)


def test_rows_that_are_not_what_the_teacher_gives_are_computed_anew(
    expected: Whole, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Though the teacher is called the same, as one whose code cannot be seen may be."""
    table(tmp_path, Teacher(seed=1))
    assert np.array_equal(table(tmp_path, Teacher()), expected[1])
    assert "its rows are not what the teacher gives, all are computed anew" in capfd.readouterr().err


def test_a_table_that_may_only_be_read_is_read(expected: Whole, tmp_path: Path) -> None:
    (tmp_path / expected[2]).write_bytes(expected[0])
    (tmp_path / expected[2]).chmod(0o444)
    assert np.array_equal(table(tmp_path, Teacher()), expected[1])


class One(Processes):
    """One of several that run one after the other."""

    def told(self, work: Callable[[], Any]) -> Any:
        return work()

    together = told


@settings(max_examples=10)
@given(
    st.lists(st.integers(1, 5).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))), max_size=4)
)
def test_a_pass_goes_on_with_any_number_of_processes(
    expected: Whole, tmp_path_factory: pytest.TempPathFactory, interrupted: list[tuple[int, int]]
) -> None:
    """Each of ``interrupted`` computes its share of what is missing, and the others do not."""
    content, rows, name = expected
    folder, seen = tmp_path_factory.mktemp("shared"), 0
    for rank, count in interrupted:
        teacher = Teacher()
        table(folder, teacher, processes=One(rank, count))
        seen += sum(teacher.seen)
    last = Teacher()
    assert np.array_equal(table(folder, last), rows)
    assert (folder / name).read_bytes() == content
    assert seen + sum(last.seen) <= 2 * (IMAGES + 8 * (1 + len(interrupted)))  # no block twice


def test_a_disk_without_the_room_is_refused_before_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = IMAGES * 2 * 6 * 2
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, needed - 1))
    teacher = Teacher()
    with pytest.raises(InputError, match=r"embeddings by teacher need 6.3 kB in .*, which has 4.8 kB free"):
        table(tmp_path, teacher)
    assert sum(teacher.seen) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_needs_no_room(
    expected: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / expected[2]).write_bytes(expected[0])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("usage", "free")(0))
    assert np.array_equal(table(tmp_path, Teacher()), expected[1])


def test_the_plan_of_a_long_pass_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path / "short", Teacher())
    assert "about" not in capfd.readouterr().err
    monkeypatch.setattr(passes, "_LONG", 0.0)
    table(tmp_path / "long", Teacher())
    found = capfd.readouterr().err
    plan = r"teacher: 199 images in 2 views, 6.3 kB in .*long \(.* free\), about 0:00:0\d at \d+ images/s; "
    assert re.search(plan, found)
    assert found.count("about") == 1


def test_what_a_run_draws_at_random_does_not_hang_on_what_was_computed(tmp_path: Path) -> None:
    drawn, teacher = [], Teacher()
    for _ in range(2):
        torch.manual_seed(3)
        table(tmp_path, teacher)
        drawn.append(float(torch.rand(())))
    torch.manual_seed(3)
    assert drawn == [float(torch.rand(()))] * 2
