"""Which views an epoch shows: the same with any number of workers and processes, and again after an interruption."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from recipes.faces import FaceRecords
from recipes.tsmr import Augment
from recipes.tsmr.choices import Taught
from recipes.tsmr.distributed import Processes
from recipes.tsmr.targets.showing import Showing, Shown
from recipes.tsmr.targets.views import Views

CHANGED = Augment(colour=0.7, crop=0.3, mix=0.5)


class Greys(Dataset[tuple[Tensor, int, int]]):
    """Image ``i`` is ``10 * i`` in its left column and black otherwise."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image = torch.zeros(3, 4, 4, dtype=torch.uint8)
        image[:, :, 0] = 10 * index
        return image, 0, index


def shown(batches: Iterable[tuple[Shown, ...]], nth: int = 0) -> dict[int, tuple[Tensor, int, bool]]:
    """Image, column and whether blended, by the image's number."""
    return {
        number: (image, column, blended)
        for views in batches
        for image, number, column, blended in zip(
            views[nth].images, *(part.tolist() for part in views[nth][1:]), strict=True
        )
    }


def same(first: dict[int, tuple[Tensor, int, bool]], other: dict[int, tuple[Tensor, int, bool]]) -> bool:
    return first.keys() == other.keys() and all(
        torch.equal(first[i][0], other[i][0]) and first[i][1:] == other[i][1:] for i in first
    )


@pytest.mark.parametrize("taught", ["live", 2])
def test_an_epoch_is_the_same_with_any_number_of_workers_and_processes(rec: Path, taught: Taught) -> None:
    showing = Showing(Views(FaceRecords(rec)), taught, CHANGED, flip=True, seed=3)
    alone = shown(showing.epoch(2, 4, 0))
    assert len(alone) == len(showing) == 24
    assert same(alone, shown(showing.epoch(2, 4, 2)))
    parts = [shown(showing.epoch(2, 4, 0, processes=Processes(rank, 3))) for rank in range(3)]
    assert same(alone, parts[0] | parts[1] | parts[2])
    assert not same(alone, shown(showing.epoch(1, 4, 0)))
    other = Showing(showing.views, taught, CHANGED, flip=True, seed=4)
    assert not same(alone, shown(other.epoch(2, 4, 0)))


def test_stored_views_are_those_of_the_first_epochs_and_come_again(rec: Path) -> None:
    views = Views(FaceRecords(rec))
    live, kept = (Showing(views, taught, CHANGED, flip=True, seed=3) for taught in ("live", 2))
    (stored,) = kept.stored(range(len(views)), len(views), 0)
    assert [view.images.shape for view in stored] == [(24, 3, 16, 16)] * 3
    assert kept.person == 2
    assert torch.equal(stored[2].images[5], views[5, False][0])
    for epoch, column in ((1, 0), (2, 1), (3, 0), (4, 1)):
        now = shown(kept.epoch(epoch, 4, 0))
        fresh = shown(live.epoch(column + 1, 4, 0))
        for i, (image, at, blended) in now.items():
            assert at == column
            assert torch.equal(image, stored[column].images[i])
            assert torch.equal(image, fresh[i][0])
            assert blended == fresh[i][2] == bool(stored[column].blended[i])
    assert list(shown(kept.epoch(1, 4, 0))) != list(shown(kept.epoch(3, 4, 0)))  # in another order


def test_the_teacher_is_asked_about_the_unchanged_image_and_its_mirror_image() -> None:
    showing = Showing(Views(Greys()), "original", Augment(occlusion=1.0), flip=True)
    (stored,) = showing.stored([7, 3], 2, 0)
    assert stored[0].images[0].tolist() == Greys()[7][0].tolist()
    assert stored[1].images[1].tolist() == Greys()[3][0].flip(2).tolist()
    columns = [column for _, column, _ in shown(showing.epoch(1, 5, 0)).values()]
    assert 4 < sum(columns) < 16
    ((plain,),) = Showing(Views(Greys())).stored([7], 1, 0)
    assert plain.images.shape == (1, 3, 4, 4)


def half_mirrored(showing: Showing) -> list[tuple[bool, int]]:
    """Of each image of ``Greys`` but the first, which is alike either way: whether it is mirrored, about half of them
    are, and its column.
    """
    seen = shown(showing.epoch(1, 4, 0))
    mirrored = {i: bool(image[0, 0, 3]) for i, (image, _, _) in seen.items() if i}
    assert 4 < sum(mirrored.values()) < 16
    for i, side in mirrored.items():
        image = Greys()[i][0]
        assert torch.equal(seen[i][0], image.flip(2) if side else image)
    return [(side, seen[i][1]) for i, side in mirrored.items()]


@pytest.mark.parametrize("taught", ["original", "live", 3])
def test_without_changes_half_of_the_images_are_mirrored(taught: Taught) -> None:
    showing = Showing(Views(Greys()), taught, flip=True)
    for side, column in half_mirrored(showing):
        assert column == (side if taught == "original" else 0)


def test_a_mirrored_image_is_learnt_with_what_the_teacher_says_of_the_other() -> None:
    showing = Showing(Views(Greys()), augment=Augment(mirror=0.5))
    assert len(showing.columns) == 1
    assert all(column == 0 for _, column in half_mirrored(showing))
    for first in showing.first(20, 20, 0):  # as the teacher was asked about them
        assert all(
            torch.equal(image, Greys()[int(i)][0])
            for image, i in zip(first.images, first.number, strict=True)
        )


def test_a_blend_is_of_two_images_and_told_as_such() -> None:
    showing = Showing(Views(Greys()), "live", Augment(mix=0.5))
    seen = shown(showing.epoch(1, 4, 0))
    blends = {i for i, (_, _, blended) in seen.items() if blended}
    assert 4 < len(blends) < 16
    for i, (image, _, _) in seen.items():
        changed = not torch.equal(image, Greys()[i][0])
        assert changed <= (i in blends)
    assert sum(not torch.equal(seen[i][0], Greys()[i][0]) for i in blends) > len(blends) // 2
    none = shown(Showing(Views(Greys()), "live", Augment(mix=1.0)).epoch(1, 4, 0))
    assert all(blended for _, _, blended in none.values())


@pytest.mark.parametrize("taught", ["original", "live", 2])
def test_a_second_view_is_of_the_same_images_and_another(rec: Path, taught: Taught) -> None:
    augment = Augment(colour=1.0)
    showing = Showing(Views(FaceRecords(rec)), taught, augment, flip=True, seed=1)
    both = list(showing.epoch(1, 4, 0, views=2))
    assert all(torch.equal(first.number, second.number) for first, second in both)
    first, second = shown(both), shown(both, nth=1)
    assert same(first, shown(showing.epoch(1, 4, 0)))
    assert not any(torch.equal(first[i][0], second[i][0]) for i in first)
    if taught == "original":
        assert all(first[i][1] + second[i][1] == 1 for i in first)
    if taught == 2:
        assert all((first[i][1], second[i][1]) == (0, 1) for i in first)
