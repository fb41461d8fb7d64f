from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from recipes.tsmr.config import LOSSES, Loss
from recipes.tsmr.losses import Distillation, cosine_loss, mse_loss


def test_the_losses_by_hand() -> None:
    student = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert cosine_loss(student, teacher).item() == pytest.approx((0 + 1) / 2)
    assert mse_loss(student, teacher).item() == pytest.approx((4 + 5) / 2)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 9))
def test_between_unit_vectors_mse_is_twice_cosine(seed: int, rows: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = F.normalize(torch.randn(2, rows, size, generator=generator, dtype=torch.float64), dim=2)
    torch.testing.assert_close(mse_loss(a, b), 2 * cosine_loss(a, b))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("ours", "theirs"), [(4, 4), (3, 7), (7, 3)])
def test_the_fit_finds_a_linear_map(loss: Loss, ours: int, theirs: int) -> None:
    student = torch.randn(60, ours)
    teacher = F.normalize(student, dim=1) @ torch.randn(ours, theirs)
    stage = Distillation(ours, theirs, loss)
    assert stage(student, teacher)[loss] > 0.1
    stage.fit(student, teacher)
    assert stage(student, teacher)[loss].item() == pytest.approx(0, abs=1e-6)


def test_the_fit_takes_a_sample_smaller_than_the_embedding() -> None:
    student, teacher = torch.randn(3, 8), F.normalize(torch.randn(3, 5), dim=1)
    stage = Distillation(8, 5, "mse")
    stage.fit(student, teacher)
    assert stage(student, teacher)["mse"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_length_of_the_student_embedding_does_not_count(loss: Loss) -> None:
    stage = Distillation(4, 4, loss)
    student, teacher = torch.randn(5, 4), F.normalize(torch.randn(5, 4), dim=1)
    torch.testing.assert_close(stage(student, teacher)[loss], stage(10 * student, teacher)[loss])


@pytest.mark.parametrize("loss", LOSSES)
def test_student_and_projection_both_learn(loss: Loss) -> None:
    stage = Distillation(4, 6, loss)
    student = torch.randn(5, 4, requires_grad=True)
    stage(student, F.normalize(torch.randn(5, 6), dim=1))[loss].backward()
    assert student.grad is not None
    assert student.grad.abs().min() > 0
    assert stage.projection.weight.grad is not None
    assert stage.projection.weight.grad.abs().max() > 0
