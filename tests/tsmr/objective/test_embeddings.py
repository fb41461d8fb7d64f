from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from recipes.tsmr import Stage, TSMRConfig
from recipes.tsmr.objective.embeddings import (
    Cosine,
    Gallery,
    HardPairs,
    HardSamples,
    Perturbed,
    Relational,
    SquaredDistance,
)
from recipes.tsmr.objective.loss import Batch
from recipes.tsmr.objective.objective import Objective
from recipes.tsmr.objective.turn import Turn


def batch(rows: int = 6, ours: int = 5, theirs: int = 7, **parts: Tensor) -> Batch:
    return Batch(
        student=3 * torch.randn(rows, ours),
        mapped=F.normalize(torch.randn(rows, theirs), dim=1),
        teacher=F.normalize(torch.randn(rows, theirs), dim=1),
        old=F.normalize(torch.randn(rows, ours), dim=1),
        perturbed=F.normalize(torch.randn(rows, theirs), dim=1),
    )


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def pair_errors(of: Batch) -> list[float]:
    pairs = itertools.combinations(range(len(of.student)), 2)
    return [
        (cosine(of.student[i], of.student[j]) - cosine(of.teacher[i], of.teacher[j])) ** 2 for i, j in pairs
    ]


def by_hand(term: str, of: Batch) -> float:
    """What the docstrings say, in loops."""
    rows = range(len(of.student))
    angles = [1 - cosine(of.mapped[i], of.teacher[i]) for i in rows]
    if term == "mse":
        return float(np.mean([float(((of.mapped[i] - of.teacher[i]) ** 2).sum()) for i in rows]))
    if term == "hard":
        return float(np.mean(sorted(angles)[-2:]))  # a quarter of 6
    if term == "hard_pairs":
        return float(np.mean(sorted(pair_errors(of))[-2:]))  # a tenth of 15
    if term == "relational":
        return float(np.mean(pair_errors(of)))
    if term == "gallery":
        return float(np.mean([1 - cosine(of.student[i], of.old[i]) for i in rows]))
    if term == "perturbed":
        return float(np.mean([1 - cosine(of.perturbed[i], of.teacher[i]) for i in rows]))
    return float(np.mean(angles))


TERMS = {
    loss.name: loss
    for loss in (Cosine, SquaredDistance, Relational, HardSamples, HardPairs, Gallery, Perturbed)
}


@pytest.mark.parametrize("term", TERMS)
def test_each_term_is_what_it_says(term: str) -> None:
    given = batch()
    assert TERMS[term]()(given).item() == pytest.approx(by_hand(term, given), abs=1e-5)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_is_zero_at_the_teacher_and_has_a_gradient(term: str) -> None:
    given = batch(ours=7)
    at_teacher = Batch(*[given.teacher] * 3, old=given.teacher, perturbed=given.teacher)
    assert TERMS[term]()(at_teacher).item() == pytest.approx(0, abs=1e-6)
    leaves = {name: getattr(given, name).requires_grad_() for name in ("student", "mapped", "perturbed")}
    TERMS[term]()(Batch(teacher=given.teacher, old=given.old, **leaves)).backward()
    assert any(leaf.grad is not None and leaf.grad.abs().max() > 0 for leaf in leaves.values())


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 9))
def test_between_unit_vectors_mse_is_twice_cosine(seed: int, rows: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = F.normalize(torch.randn(2, rows, size, generator=generator, dtype=torch.float64), dim=2)
    of = Batch(a, b, a)
    torch.testing.assert_close(SquaredDistance()(of), 2 * Cosine()(of))


def objective(ours: int, theirs: int, **weights: float) -> Objective:
    stage = Stage(**weights)
    made = Objective(Turn(ours, theirs), TSMRConfig(stages=(stage,)))
    made.begin(stage)
    return made


def terms(made: Objective, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    result: dict[str, Tensor] = made(Batch(student, teacher, made.turn.map(student)))
    return result


SIZES = [(4, 4), (3, 7), (7, 3)]


def turned(student: Tensor, theirs: int) -> Tensor:
    """Embeddings of a teacher that says the same in axes of its own."""
    turn = torch.linalg.qr(torch.randn(theirs, student.shape[1])).Q
    return F.normalize(student, dim=1) @ turn.T


@pytest.mark.parametrize("loss", ["cosine", "mse"])
@pytest.mark.parametrize(("ours", "theirs"), [(4, 4), (3, 7)])
def test_the_fit_finds_the_turn(loss: str, ours: int, theirs: int) -> None:
    student = torch.randn(60, ours)
    teacher = turned(student, theirs)
    made = objective(ours, theirs, **{loss: 1.0})
    assert terms(made, student, teacher)[loss] > 0.1
    made.turn.fit(student, teacher)
    assert terms(made, student, teacher)[loss].item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(made.turn.unmap(teacher), F.normalize(student, dim=1))


@pytest.mark.parametrize(("ours", "theirs"), SIZES)
def test_a_turn_keeps_angles_and_no_other_turn_is_nearer(ours: int, theirs: int) -> None:
    student, teacher = torch.randn(40, ours), F.normalize(torch.randn(40, theirs), dim=1)
    made = objective(ours, theirs, cosine=1.0)
    made.turn.fit(student, teacher)
    few = torch.eye(min(ours, theirs))
    torch.testing.assert_close(
        made.turn.matrix.T @ made.turn.matrix if ours <= theirs else made.turn.matrix @ made.turn.matrix.T,
        few,
    )
    best = terms(made, student, teacher)["cosine"]
    for _ in range(50):
        left, _, right = torch.linalg.svd(
            made.turn.matrix + 0.1 * torch.randn(theirs, ours), full_matrices=False
        )
        made.turn.matrix.copy_(left @ right)
        assert terms(made, student, teacher)["cosine"] > best


def test_a_larger_student_is_asked_to_stay_in_the_space_of_its_teacher() -> None:
    made = objective(3, 2, cosine=1.0)  # the first two axes
    inside, outside = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0]])
    assert terms(made, inside, teacher)["cosine"].item() == pytest.approx(0)
    assert terms(made, outside, teacher)["cosine"].item() == pytest.approx(1 - 0.5**0.5)


@pytest.mark.parametrize(("ours", "theirs"), SIZES)
def test_the_fit_takes_a_sample_smaller_than_the_embedding(ours: int, theirs: int) -> None:
    made = objective(ours, theirs, cosine=1.0)
    made.turn.fit(torch.randn(2, ours), F.normalize(torch.randn(2, theirs), dim=1))
    assert made.turn.matrix.isfinite().all()


def test_the_turn_follows_the_student() -> None:
    student, other = torch.randn(2, 200, 4)
    teacher = turned(student, 4)
    made = objective(4, 4, cosine=1.0)
    made.turn.fit(other, teacher)
    start = terms(made, student, teacher)["cosine"]
    before = made.turn.matrix.clone()
    made.turn.observe(student, teacher)
    assert torch.equal(made.turn.matrix, before)  # until it is told to
    for _ in range(20):
        made.turn.observe(student, teacher)
        made.turn.follow()
    assert terms(made, student, teacher)["cosine"] < 0.01 * start


@pytest.mark.parametrize("loss", ["cosine", "mse", "relational"])
def test_the_length_of_the_student_embedding_does_not_count(loss: str) -> None:
    made = objective(4, 4, **{loss: 1.0})
    student, teacher = torch.randn(5, 4), F.normalize(torch.randn(5, 4), dim=1)
    torch.testing.assert_close(terms(made, student, teacher)[loss], terms(made, 10 * student, teacher)[loss])
