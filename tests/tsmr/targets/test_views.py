from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing import get_start_method, set_start_method
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from recipes.faces import FaceRecords
from recipes.tsmr.targets.views import Part, Views, epoch_order
from reparam_kit import InputError


class Given(Dataset[tuple[Tensor, int, int]]):
    def __init__(self, images: list[Tensor]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.images[index], 0, index


class Augmented(Given):
    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return torch.randint(256, (3, 4, 4), dtype=torch.uint8), 0, index


def test_an_epoch_shows_each_image_once_and_half_of_them_mirrored() -> None:
    order = list(epoch_order(1000, True, seed=3))
    assert sorted(index for index, _ in order) == list(range(1000))
    assert 400 < sum(mirrored for _, mirrored in order) < 600
    assert order == list(epoch_order(1000, True, seed=3))
    assert order != list(epoch_order(1000, True, seed=4))
    assert list(epoch_order(1000, False, seed=3)) == [(index, False) for index, _ in order]


def test_mirrored_is_left_to_right() -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    views = Views(Given([image]))
    assert views[0, False][0].tolist() == image.tolist()
    assert views[0, True][0][0].tolist() == [[1, 0], [3, 2]]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_any_number_of_workers(rec: Path, workers: int) -> None:
    records = FaceRecords(rec)
    order = list(epoch_order(len(records), True, seed=0))
    seen = []
    for images, index, mirrored in Views(records).batches(order, 5, workers):
        for image, i, side in zip(images, index.tolist(), mirrored.tolist(), strict=True):
            seen.append((i, side))
            assert torch.equal(image, records[i][0].flip(2) if side else records[i][0])
    assert seen == order


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([], "no image"),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 5, 4, dtype=torch.uint8)], "image 1 is"),
        ([torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)], "image 1 is torch.uint8"),
        ([torch.zeros(2, 4, 4)], r"image 0 is torch.float32 \[2, 4, 4\]"),
    ],
)
def test_images_that_cannot_be_used_are_refused(images: list[Tensor], says: str) -> None:
    with pytest.raises(InputError, match=says):
        list(Views(Given(images)).batches([(i, False) for i in range(len(images))], 2, 0))


def test_a_dataset_that_augments_is_refused() -> None:
    with pytest.raises(InputError, match="leave augmentation out"):
        Views(Augmented([torch.zeros(0)]))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_raises_is_one_line(workers: int) -> None:
    sizes = Given([torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 5, 4, dtype=torch.uint8)])
    with pytest.raises(InputError) as raised:
        list(Views(sizes).batches([(0, False), (1, False)], 1, workers))
    assert str(raised.value).startswith("training image 1 is torch.uint8 [3, 5, 4]")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class Killed(Given):
    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        if get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.fixture
def begun_anew() -> Iterator[None]:
    """Processes begin anew, and not as copies of this one."""
    before = get_start_method()
    set_start_method("spawn", force=True)
    yield
    set_start_method(before, force=True)


@pytest.mark.filterwarnings("ignore:Got pickle error")  # torch says so, too
@pytest.mark.usefixtures("begun_anew")
def test_a_dataset_that_no_process_can_be_handed_is_told_in_one_line() -> None:
    class Local(Given):
        """Of a function: a process that begins anew does not know it."""

    views = Views(Local([torch.zeros(3, 4, 4, dtype=torch.uint8)]))
    with pytest.raises(InputError, match=r"cannot be handed to processes .*define it at the top of a module"):
        list(views.batches([(0, False)], 1, 1))


def test_a_worker_that_is_killed_is_told_in_one_line() -> None:
    views = Views(Killed([torch.zeros(3, 4, 4, dtype=torch.uint8)]))
    with pytest.raises(InputError, match="a process that decodes images was ended"):
        list(views.batches([(0, False)], 1, 1))


def test_people_who_are_not_known_stay_so_in_a_part() -> None:
    images = Given([torch.zeros(3, 4, 4, dtype=torch.uint8)] * 5)
    labels = np.array([-1, 7, 3, -5, 7])
    assert Part(images, np.array([0, 1, 3, 4]), labels).labels.tolist() == [-1, 0, -1, 0]
    assert Part(images, np.array([0, 1, 3, 4]), labels, classes=True).labels.tolist() == [-1, 7, -5, 7]
