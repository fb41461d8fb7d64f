from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from recipes.faces import FaceRecords
from recipes.tsmr.choices import Combine
from recipes.tsmr.targets.examples import Examples, PartTable, Targets, identity_labels
from recipes.tsmr.targets.views import Views


def unit(images: int, size: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(images, 2, size))
    return (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float16)


def at(rows: list[int], side: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return np.array(rows), np.full(len(rows), side)


def test_one_teacher_is_its_table() -> None:
    table = unit(5, 3)
    for combine in ("concat", "mean"):
        targets = Targets([table], combine)
        assert targets.size == 3
        np.testing.assert_array_equal(targets.rows(*at([4, 0], side=1)), table[[4, 0], 1].astype(np.float32))


@pytest.mark.parametrize("combine", ["concat", "mean"])
def test_the_table_of_a_part_holds_its_rows(combine: Combine) -> None:
    chosen = np.array([1, 2, 4, 7])
    tables = [unit(9, 3), unit(9, 5, seed=1)]
    part = Targets([PartTable(table, chosen) for table in tables], combine)
    cut = Targets([table[chosen] for table in tables], combine)
    assert part.size == cut.size
    for side in (0, 1):
        torch.testing.assert_close(part.rows(*at([3, 0], side)), cut.rows(*at([3, 0], side)), rtol=0, atol=0)


def test_a_concatenation_has_the_mean_of_the_similarities() -> None:
    tables = [unit(6, 3), unit(6, 7, seed=1)]
    targets = Targets(tables, "concat")
    assert targets.size == 10
    rows = targets.rows(*at([0, 1, 2]))
    each = [torch.from_numpy(table[:3, 0].astype(np.float32)) for table in tables]
    torch.testing.assert_close(rows @ rows.T, sum(a @ a.T for a in each) / 2)


@pytest.mark.parametrize("sizes", [(4, 4), (4, 6), (6, 4)])
def test_the_mean_of_teachers_that_agree_is_the_first(sizes: tuple[int, int]) -> None:
    """The second teacher has the first one's embeddings, turned into a space of its own."""
    shared = unit(200, min(sizes)).astype(np.float64)
    tables = []
    for seed, size in enumerate(sizes):
        turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
        tables.append((shared @ turn[: min(sizes)]).astype(np.float16))
    targets = Targets(tables, "mean")
    assert targets.size == sizes[0]
    for side in (0, 1):
        np.testing.assert_allclose(targets.rows(*at([3, 8], side)), tables[0][[3, 8], side], atol=5e-3)


def test_the_mean_is_of_length_one() -> None:
    rows = Targets([unit(50, 4), unit(50, 6, seed=1), unit(50, 3, seed=2)], "mean").rows(*at([1, 2, 3]))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


class Labelled(Dataset[tuple[Tensor, int, int]]):
    labels = (2, 0, -1, 2)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return torch.full((3, 4, 4), index, dtype=torch.uint8), self.labels[index], index


def test_labels_of_files_and_of_any_dataset(rec: Path) -> None:
    records = FaceRecords(rec)
    assert identity_labels(records).tolist() == [records[index][1] for index in range(len(records))]
    assert identity_labels(Labelled()).tolist() == [2, 0, -1, 2]


def test_what_is_known_of_images() -> None:
    tables = unit(4, 3), unit(4, 5, seed=1)
    examples = Examples(
        Views(Labelled()), Targets([tables[0]], "concat"), identity_labels(Labelled()), tables[1]
    )
    known = examples.known(torch.tensor([3, 2]), torch.tensor([True, False]))
    np.testing.assert_array_equal(known["teacher"][0], tables[0][3, 1].astype(np.float32))
    assert known["labels"].tolist() == [2, -1]
    np.testing.assert_array_equal(known["old"][1], tables[1][2, 0].astype(np.float32))
    assert examples.identities == 3
    means = examples.identity_means("teacher")
    both = torch.from_numpy(tables[0][[0, 3], 0].astype(np.float32)).sum(0)
    torch.testing.assert_close(means[2], F.normalize(both, dim=0))
    assert means[1].tolist() == [0, 0, 0]
    assert examples.identity_means("old").shape == (3, 5)
    bare = Examples(Views(Labelled()), Targets([tables[0]], "concat"))
    assert set(bare.known(torch.tensor([0]), torch.tensor([False]))) == {"teacher"}
    assert bare.identities == 0
