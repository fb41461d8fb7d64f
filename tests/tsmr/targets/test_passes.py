from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recipes.faces import Embedder, FaceRecords, input_preset
from recipes.progress import Progress
from recipes.tsmr.targets.identity import data_identity, model_identity
from recipes.tsmr.targets.passes import Net, embedding_tables
from recipes.tsmr.targets.showing import Showing
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError

from ..conftest import onnx_teacher


def table(
    teacher: nn.Module | Path, rec: Path, folder: Path, *, preset: str = "insightface", flip: bool = True
) -> npt.NDArray[np.float16]:
    views = Views(FaceRecords(rec))
    (rows,) = embedding_tables(
        [Net(Embedder(teacher, input_preset(preset)), model_identity(teacher))],
        Showing(views, flip=flip),
        data_identity(views.images),
        folder,
        workers=0,
        progress=Progress(),
    )
    return rows


class Broken(nn.Module):
    def __init__(self, output: str) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(1)[:, :8].clone()
        if self.output == "constant":
            return torch.ones_like(rows)
        if len(rows) > 1:
            rows[-1] = torch.nan if self.output == "nan" else 0
        return rows

    def extra_repr(self) -> str:
        return self.output


@pytest.mark.parametrize("flip", [True, False])
def test_each_row_is_the_unit_embedding_of_its_image(
    rec: Path, teacher: nn.Module, tmp_path: Path, flip: bool
) -> None:
    rows = table(teacher, rec, tmp_path, flip=flip)
    records = FaceRecords(rec)
    assert (rows.shape, rows.dtype) == ((len(records), 1 + flip, 12), np.float16)
    embed = Embedder(teacher, input_preset("insightface"))
    for index in (0, 7, len(records) - 1):
        for side in range(1 + flip):
            image = records[index][0].flip(2) if side else records[index][0]
            expected = F.normalize(embed(image[None]), dim=1)[0]
            np.testing.assert_allclose(rows[index, side], expected, atol=1e-3)


def test_the_table_is_computed_once(
    rec: Path, teacher: nn.Module, tmp_path: Path, counted: Callable[[nn.Module], list[int]]
) -> None:
    calls = counted(teacher)
    first = table(teacher, rec, tmp_path)
    assert sum(calls) == 2 * (len(FaceRecords(rec)) + 1)  # one to see the size of an embedding
    calls.clear()
    again = table(teacher, rec, tmp_path)
    assert sum(calls) == 2 * 8  # a few rows, to see whether the table is this teacher's
    assert np.array_equal(first, again)


def test_another_teacher_or_input_is_another_table_and_a_copy_of_the_images_is_not(
    rec: Path, teacher: nn.Module, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"

    def tables() -> int:
        return len(list(cache.iterdir()))

    table(teacher, rec, cache)
    table(teacher, rec, cache, preset="imagenet")
    assert tables() == 2
    table(teacher, rec, cache, flip=False)
    assert tables() == 3
    with torch.no_grad():
        teacher.head.bias[0] += 1e-3  # type: ignore[index, union-attr]
    table(teacher, rec, cache)
    assert tables() == 4
    copy = shutil.copytree(rec.parent, tmp_path / "copy") / rec.name
    os.utime(copy, ns=(0, 0))
    table(teacher, copy, cache)
    assert tables() == 4


def test_a_table_that_fails_leaves_nothing(rec: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        table(Broken("nan"), rec, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("nan", "image 23 is zero or not finite"),
        ("zero", "image 23 is zero or not finite"),
        ("constant", "the same embedding for each of 24 training images"),
    ],
)
def test_a_broken_teacher_stops_the_run(rec: Path, tmp_path: Path, output: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        table(Broken(output), rec, tmp_path)


def test_a_file_is_a_teacher(rec: Path, tmp_path: Path) -> None:
    assert table(onnx_teacher(tmp_path / "t.onnx"), rec, tmp_path).shape == (24, 2, 6)


def test_a_teacher_for_another_image_size_stops_the_run(rec: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="20"):
        table(onnx_teacher(tmp_path / "t.onnx", size=20), rec, tmp_path)


def test_weights_outside_the_file_are_part_of_its_identity(tmp_path: Path) -> None:
    path = onnx_teacher(tmp_path / "t.onnx", external=True)
    before = model_identity(path)
    assert model_identity(path) == before
    with (tmp_path / "t.onnx.data").open("r+b") as file:
        file.write(b"\1\2\3\4")
    assert model_identity(path) != before
