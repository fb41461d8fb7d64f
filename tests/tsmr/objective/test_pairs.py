"""The loss of pairs, against its formula one pair at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.tsmr import Batch, Start, TSMRConfig
from recipes.tsmr.objective import pairs
from recipes.tsmr.objective.earlier import LENGTH, Earlier
from recipes.tsmr.objective.pairs import _PULL, _PUSH, NamedPairs
from recipes.tsmr.targets.spread import ALIKE, DIFFERENT, MARGIN, Spread
from recipes.tsmr.targets.targets import StoredTargets


def faces(images: int, size: int, seed: int) -> Tensor:
    """Two images of each person, one after the other."""
    random = torch.Generator().manual_seed(seed)
    who = torch.randn(images // 2, size, generator=random).repeat_interleave(2, 0)
    return F.normalize(who + 0.3 * torch.randn(images, size, generator=random), dim=1)


STUDENT, TEACHER = 3 * faces(40, 16, 0), faces(40, 256, 1)
BATCH = Batch(
    STUDENT[:12],
    index=torch.arange(12),
    teacher=TEACHER[:12],
    earlier_index=torch.arange(8, 40),
    earlier_student=F.normalize(STUDENT[8:], dim=1),
    earlier_teacher=TEACHER[8:],
)


def started() -> NamedPairs:
    loss = NamedPairs()
    sample = Batch(STUDENT, teacher=TEACHER)
    loss.start(Start(16, 256, cast("Any", None), TSMRConfig(), torch.device("cpu"), sample))
    return loss


@contextmanager
def fixed_spread() -> Iterator[None]:
    """Take mean and deviation of unrelated pairs for constants: the loss has no gradient by them."""
    with pytest.MonkeyPatch.context() as patch:
        seen: list[tuple[Tensor, Tensor]] = []
        measure = pairs._spread

        def first(*asked: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(measure(*asked))
            return seen[0]

        patch.setattr(pairs, "_spread", first)
        yield


def pairs_of(row: int) -> list[tuple[float, float]]:
    """Of an image of the batch with each other: what the student says, in its own spread, and the teacher."""
    index = [*range(12), *range(8, 40)]
    theirs = Spread.of(TEACHER)
    unit = F.normalize(STUDENT, dim=1)
    unrelated = [
        float(unit[a] @ unit[b])
        for a in range(12)
        for b in index
        if a != b and float(TEACHER[a] @ TEACHER[b]) < theirs.cosine(DIFFERENT)
    ]
    mean, std = torch.tensor(unrelated).mean(), torch.tensor(unrelated).std()
    return [
        (
            float((unit[row] @ unit[b] - mean) / std),
            (float(TEACHER[row] @ TEACHER[b]) - theirs.middle) / theirs.width,
        )
        for b in index
        if b != row
    ]


def test_pairs_are_named_by_the_teacher() -> None:
    wanted, named = 0.0, 0
    for row in range(12):
        known = pairs_of(row)
        one = [math.exp(_PULL * (MARGIN - ours)) for ours, theirs in known if theirs > ALIKE]
        two = [math.exp(_PUSH * (ours - MARGIN)) for ours, theirs in known if theirs < DIFFERENT]
        named += len(one)
        wanted += (math.log1p(sum(one)) / _PULL + math.log1p(sum(two)) / _PUSH) / 12
    assert named >= 12
    assert float(started()(BATCH)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("remembered", [32, 5, 0])
def test_what_is_computed_of_all_columns_is_what_is_computed_of_few(
    remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for columns in (pairs._with_any, lambda said, bound: slice(None)):  # as on a GPU
        monkeypatch.setattr(pairs, "_with_any", columns)
        student = STUDENT[:12].clone().requires_grad_()
        earlier = {n: v[:remembered] for n, v in vars(BATCH).items() if n.startswith("earlier")}
        loss = started()(Batch(**{**vars(BATCH), **earlier, "student": student}))
        found.append((loss, *torch.autograd.grad(loss, student)))
    torch.testing.assert_close(*found)


def test_the_gradient_is_that_of_the_loss() -> None:
    def loss(student: Tensor) -> Tensor:
        now = {n: v.double() if v.is_floating_point() else v for n, v in vars(BATCH).items()}
        return started()(Batch(**{**now, "student": student}))

    student = STUDENT[:12].double().requires_grad_()
    with fixed_spread():
        assert torch.autograd.gradcheck(loss, student, atol=1e-6)


def test_a_student_that_says_what_the_teacher_says_is_better_than_another() -> None:
    loss = started()

    def of(student: Tensor) -> float:
        earlier = F.normalize(student[8:], dim=1)
        return float(loss(Batch(**{**vars(BATCH), "student": student[:12], "earlier_student": earlier})))

    assert (
        of(TEACHER)
        < of(STUDENT)
        < of(STUDENT[torch.randperm(40, generator=torch.Generator().manual_seed(0))])
    )


def test_the_last_embeddings_are_remembered_and_the_oldest_forgotten() -> None:
    memory = Earlier(4, 6, 1200)
    assert (len(memory.index), len(memory.student), len(memory.teacher)) == (0, 0, 0)
    for start in range(0, 1800, 300):
        index = torch.arange(start, start + 300)
        memory.add(index, index[:, None] + torch.ones(300, 4), index[:, None].expand(300, 6).float())
    assert sorted(memory.index.tolist()) == list(range(600, 1800))
    assert torch.equal(memory.teacher[:, 0].long(), memory.index)
    torch.testing.assert_close(memory.student.norm(dim=1), torch.ones(1200))
    other = Earlier(4, 6, 1200)
    other.load_state_dict(memory.state_dict())
    for one in (memory, other):
        one.add(torch.tensor([5]), torch.ones(1, 4), torch.ones(1, 6))
    assert torch.equal(other.index, memory.index)
    assert 600 not in other.index


def test_an_image_that_is_shown_again_takes_the_place_of_what_was_said_of_it() -> None:
    memory = Earlier(4, 6, LENGTH)
    memory.add(torch.arange(50), torch.eye(50)[:, :4] + 1, torch.zeros(50, 6))
    memory.add(torch.tensor([60, 7, 49]), torch.tensor([[0.0, 0, 0, 2]] * 3), torch.ones(3, 6))
    assert sorted(memory.index.tolist()) == [*range(50), 60]
    for number in (60, 7, 49):
        (at,) = (memory.index == number).nonzero()
        assert memory.student[at].tolist() == [[0, 0, 0, 1]]
        assert memory.teacher[at].tolist() == [[1] * 6]


class Known:
    """What two nets say of ten images."""

    views = range(10)
    old = StoredTargets([F.normalize(faces(10, 4, 2), dim=1)[:, None].half().numpy()], "concat")
    targets = StoredTargets([F.normalize(faces(10, 6, 3), dim=1)[:, None].half().numpy()], "concat")


def test_an_image_that_is_shown_twice_at_once_is_remembered_once() -> None:
    memory = Earlier(4, 6, 20)
    for index in ([3, 8, 3, 5], [9, 3, 9, 9, 7]):
        rows = torch.tensor(index, dtype=torch.float32)[:, None]
        memory.add(torch.tensor(index), rows + torch.eye(4)[:1], rows.expand(-1, 6))
        assert torch.equal(memory.teacher[:, 0].long(), memory.index)
    assert memory.index.tolist() == [3, 8, 5, 9, 7]


def test_what_was_deployed_is_remembered_from_the_start() -> None:
    known = cast("Any", Known())
    memory = Earlier.begin(4, 6, known, seed=0)
    assert sorted(memory.index.tolist()) == list(range(10))
    index = memory.index.numpy()
    torch.testing.assert_close(memory.student, F.normalize(known.old.originals(index), dim=1))
    assert torch.equal(memory.teacher, known.targets.originals(index))
    known.old = None  # of a stream, or with views="live"
    assert not len(Earlier.begin(4, 6, known, seed=0).index)
