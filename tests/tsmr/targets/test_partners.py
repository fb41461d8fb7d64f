"""Pairs that are hard to tell: those that a slow search finds, and half of each batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from recipes.tsmr.targets import partners
from recipes.tsmr.targets.partners import Partners
from recipes.tsmr.targets.spread import ALIKE, DIFFERENT, MARGIN, Spread

IMAGES = 120


class Rows:
    """Targets that are known."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = F.normalize(rows, dim=1)

    def originals(self, index: npt.NDArray[np.int64]) -> Tensor:
        return self.rows[torch.from_numpy(index)]


def people(seed: int, size: int, noise: float, like: int = 1) -> Rows:
    """Three images of each of 40 people, of whom ``like`` at a time look the same."""
    random = torch.Generator().manual_seed(seed)
    who = torch.randn(IMAGES // 3 // like, size, generator=random).repeat_interleave(3 * like, 0)
    return Rows(who + noise * torch.randn(IMAGES, size, generator=random))


def as_sets(pairs: npt.NDArray[np.int64]) -> set[frozenset[int]]:
    found = {frozenset(map(int, pair)) for pair in pairs}
    assert len(found) == len(pairs)
    return found


def slowly(teacher: Rows, old: Rows) -> tuple[set[frozenset[int]], set[frozenset[int]]]:
    theirs, ours = Spread.of(teacher.rows), Spread.of(old.rows)
    alike, confused = set(), set()
    for i in range(IMAGES):
        for j in range(i):
            said = float(teacher.rows[i] @ teacher.rows[j])
            did = float(old.rows[i] @ old.rows[j])
            if said > theirs.cosine(ALIKE):
                alike.add(frozenset((i, j)))
            if said < theirs.cosine(DIFFERENT) and did > ours.cosine(MARGIN - 1):
                confused.add(frozenset((i, j)))
    return alike, confused


@pytest.mark.parametrize("rows", [7, 512])
def test_they_are_those_of_a_slow_search(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(partners, "_ROWS", rows)
    monkeypatch.setattr(partners, "_EACH", IMAGES)
    teacher, old = people(0, 256, 0.6), people(1, 40, 0.2, like=2)
    found = Partners.find(teacher, old, IMAGES, seed=3)
    alike, confused = slowly(teacher, old)
    assert as_sets(found.alike) == alike
    assert len(alike) > 60
    assert as_sets(found.confused) == confused
    assert confused


def test_an_image_comes_first_in_a_few_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partners, "_EACH", 1)
    teacher, old = people(0, 256, 0.6), people(1, 40, 0.2, like=2)
    found = Partners.find(teacher, old, IMAGES, seed=3)
    for kind, whole in zip((found.alike, found.confused), slowly(teacher, old), strict=True):
        assert as_sets(kind) < whole
        assert np.unique(kind[:, 0], return_counts=True)[1].max() == 1


def test_of_several_the_hardest_are_taken() -> None:
    worth = torch.tensor([[0.1, 0.9, 0.5, 0.7, 0.3, 0.8, 0.6]])
    among = torch.tensor([[True, False, True, True, True, True, True]])
    assert partners._best(worth, among).tolist() == [[0, 5], [0, 3], [0, 6], [0, 2]]


def test_blocks_hold_every_image_and_pairs_stay_within_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partners, "BLOCK", 50)
    teacher = people(0, 256, 0.6)
    found = as_sets(Partners.find(teacher, None, IMAGES, seed=3).alike)
    whole, none = slowly(teacher, teacher)[0], Partners.find(teacher, None, IMAGES, seed=3).confused
    assert found < whole
    assert len(found) > len(whole) / 8
    assert none.shape == (0, 2)


@given(
    batch=st.integers(2, 16),
    images=st.integers(1, 60),
    alike=st.integers(0, 3),
    confused=st.integers(0, 3),
    flip=st.booleans(),
)
def test_half_of_each_batch_are_pairs(batch: int, images: int, alike: int, confused: int, flip: bool) -> None:
    kinds = [
        np.stack([np.arange(n), np.arange(n) + start], axis=1) for n, start in ((alike, 10), (confused, 20))
    ]
    made = Partners(*(kind % images for kind in kinds))
    order = list(made.order(images, batch, flip, seed=1))
    assert order == list(made.order(images, batch, flip, seed=1))
    assert len(order) == images // batch * batch
    known = {tuple(pair) for kind in (made.alike, made.confused) for pair in kind.tolist()}
    shown = [index for index, _ in order]
    pairs = batch // 4 if known else 0
    for start in range(0, len(shown), batch):
        for nth in range(pairs):
            assert tuple(shown[start + 2 * nth : start + 2 * nth + 2]) in known
    alone = [index for nth, index in enumerate(shown) if nth % batch >= 2 * pairs]
    assert len(set(alone)) == len(alone)
    assert flip or not any(mirrored for _, mirrored in order)


def test_the_spread_is_that_of_unrelated_faces_whatever_few_are_of_one_person() -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(600, 64, generator=random)
    plain = Spread.of(rows)
    assert plain.middle == pytest.approx(0, abs=0.01)
    assert plain.width == pytest.approx(64**-0.5, rel=0.05)
    twins = torch.cat([rows, rows[:100] + 0.1 * torch.randn(100, 64, generator=random)])
    assert Spread.of(twins).width == pytest.approx(plain.width, rel=0.03)
    assert plain.cosine(2) == pytest.approx(plain.middle + 2 * plain.width)
