from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from recipes.faces import FaceRecords
from recipes.tsmr.targets.examples import Examples, identity_labels
from recipes.tsmr.targets.showing import Showing, Shown
from recipes.tsmr.targets.targets import StoredTargets
from recipes.tsmr.targets.views import Views


def unit(images: int, size: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(images, 2, size))
    return (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float16)


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


def shown(numbers: list[int], columns: list[int], blended: list[bool]) -> Shown:
    images = torch.rand(len(numbers), 3, 4, 4)
    return Shown(images, torch.tensor(numbers), torch.tensor(columns), torch.tensor(blended))


def test_what_is_known_of_images() -> None:
    tables = unit(4, 3), unit(4, 5, seed=1)
    showing = Showing(Views(Labelled()))
    examples = Examples(
        showing,
        StoredTargets([tables[0]], "concat"),
        identity_labels(Labelled()),
        StoredTargets([tables[1]], "concat"),
    )
    known = examples.known(shown([3, 2, 0], [1, 0, 0], [False, False, True]))
    np.testing.assert_array_equal(known["teacher"][0], tables[0][3, 1].astype(np.float32))
    assert known["labels"].tolist() == [2, -1, -1]
    np.testing.assert_array_equal(known["old"][1], tables[1][2, 0].astype(np.float32))
    assert examples.identities == 3
    means = examples.identity_means("teacher")
    both = torch.from_numpy(tables[0][[0, 3], 0].astype(np.float32)).sum(0)
    torch.testing.assert_close(means[2], F.normalize(both, dim=0))
    assert means[1].tolist() == [0, 0, 0]
    assert examples.identity_means("old").shape == (3, 5)
    bare = Examples(showing, StoredTargets([tables[0]], "concat"))
    assert set(bare.known(shown([0], [0], [False]))) == {"index", "teacher"}
    assert bare.identities == 0
    first, other = shown([1], [0], [False]), shown([1], [1], [False])
    known = bare.known(first, other)
    np.testing.assert_array_equal(known["second_teacher"][0], tables[0][1, 1].astype(np.float32))
    assert known["second"] is other.images
