from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.tsmr import Margin
from recipes.tsmr.choices import MarginKind
from recipes.tsmr.objective.loss import Batch
from recipes.tsmr.objective.margins import MarginSoftmax, TeacherCentres, adaface, arcface, cosface

KINDS = get_args(MarginKind)
HARD = [-1.0, -1 + 1e-7, -0.999, -0.5, 0.0, 0.5, 0.999, 1 - 1e-7, 1.0]


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("angle", [0.01, 0.5, 1.5, 2.0, 3.0, math.pi - 0.01])
def test_the_margins_are_those_of_the_papers(angle: float, margin: float) -> None:
    cosine = torch.tensor(math.cos(angle), dtype=torch.float64)
    turned = math.cos(angle + margin) if angle + margin < math.pi else cosine - margin * math.sin(margin)
    assert float(arcface(cosine, margin)) == pytest.approx(float(turned), abs=1e-3)
    assert float(cosface(cosine, margin)) == pytest.approx(math.cos(angle) - margin)
    for quality in (-1.0, 0.0, 1.0):
        shifted = min(max(angle - margin * quality, 0), math.pi)
        expected = math.cos(shifted) - margin * (quality + 1)
        found = adaface(cosine, margin, torch.tensor(quality, dtype=torch.float64))
        assert float(found) == pytest.approx(expected, abs=1e-5)


def margin_softmax(centres: Tensor, choices: Margin) -> MarginSoftmax:
    """As it is after ``start``."""
    term = MarginSoftmax()
    term.choices, term.centres = choices, nn.Parameter(centres)
    return term


def loss_of(embeddings: Tensor, labels: Tensor, choices: Margin, centres: Tensor) -> Tensor:
    term = margin_softmax(centres, choices)
    result: Tensor = term(Batch(embeddings, labels=labels))
    return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cosine", HARD)
def test_values_and_gradients_are_finite_at_hard_angles(kind: MarginKind, cosine: float) -> None:
    centres = torch.eye(3)
    sine = math.sqrt(max(0.0, 1 - cosine**2))
    embeddings = torch.tensor([[cosine, sine, 0.0]] * 2).requires_grad_()
    loss = loss_of(embeddings, torch.zeros(2, dtype=torch.int64), Margin(kind, 0.5, 64.0), centres)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad is not None
    assert embeddings.grad.isfinite().all()


def test_without_a_margin_it_is_a_softmax_over_cosines() -> None:
    embeddings, centres, labels = torch.randn(5, 4), torch.randn(3, 4), torch.tensor([0, 2, 1, 1, 0])
    cosines = F.normalize(embeddings) @ F.normalize(centres).T
    found = loss_of(embeddings, labels, Margin("cosface", 0.0, 8.0), centres)
    torch.testing.assert_close(found, F.cross_entropy(8 * cosines, labels))


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_margin_is_harder(kind: MarginKind) -> None:
    embeddings, centres, labels = torch.randn(8, 4), torch.randn(3, 4), torch.randint(3, (8,))
    losses = [loss_of(embeddings, labels, Margin(kind, size, 8.0), centres) for size in (0.0, 0.2, 0.4)]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_people_take_no_part(kind: MarginKind) -> None:
    embeddings, centres, labels = torch.randn(6, 4), torch.randn(3, 4), torch.tensor([0, 2, 1, 1, 0, 2])
    choices = Margin(kind, 0.3, 8.0)
    mixed = torch.cat([embeddings, torch.randn(4, 4)])
    with_unknown = torch.cat([labels, torch.full((4,), -1)])
    torch.testing.assert_close(
        loss_of(embeddings, labels, choices, centres), loss_of(mixed, with_unknown, choices, centres)
    )
    assert loss_of(embeddings, torch.full((6,), -1), choices, centres) == 0


def test_adaface_takes_long_embeddings_for_good_images() -> None:
    term = margin_softmax(torch.zeros(3, 4), Margin("adaface", 0.4))
    lengths = torch.tensor([1.0, 2.0, 3.0, 4.0])
    quality = term._quality(lengths, torch.ones(4, dtype=torch.bool))
    assert quality.tolist() == sorted(quality.tolist())
    expected = (lengths - lengths.mean()) / (lengths.std() / 0.333)
    torch.testing.assert_close(quality, expected.clamp(-1, 1), atol=1e-2, rtol=0)
    term.eval()
    before = term.running.clone()
    term._quality(10 * lengths, torch.ones(4, dtype=torch.bool))
    assert torch.equal(term.running, before)


def test_sampled_classes_hold_those_of_the_batch() -> None:
    term = margin_softmax(torch.zeros(100, 4), Margin(classes=10))
    labels = torch.tensor([5, 77, -1, 5])
    drawn = []
    for _ in range(2):
        term.generator.manual_seed(3)
        columns, classes = term._sampled(labels, 100)
        assert classes is not None
        assert len(classes.unique()) == 10
        assert classes[columns[[0, 1, 3]]].tolist() == [5, 77, 5]
        assert columns[2] == -1
        drawn.append(classes.tolist())
    assert drawn[0] == drawn[1]
    columns, classes = term._sampled(labels, 100)
    assert classes is not None
    assert classes.tolist() != drawn[0]
    many = torch.arange(20)
    _, classes = term._sampled(many, 100)
    assert classes is not None
    assert classes.tolist() == many.tolist()


def test_sampled_classes_change_the_loss_only_by_those_left_out() -> None:
    embeddings, centres, labels = torch.randn(5, 4), torch.randn(40, 4), torch.tensor([0, 2, 1, 1, 39])
    all_of_them = loss_of(embeddings, labels, Margin(scale=8.0), centres)
    assert loss_of(embeddings, labels, Margin(scale=8.0, classes=10), centres) < all_of_them
    torch.testing.assert_close(
        loss_of(embeddings, labels, Margin(scale=8.0, classes=40), centres), all_of_them
    )


def test_centres_follow_the_teacher_as_adadistill_says() -> None:
    term = TeacherCentres()
    start = F.normalize(torch.randn(3, 4))
    term.choices = Margin()
    term.register_buffer("centres", start.clone())
    teacher, mapped = F.normalize(torch.randn(3, 4)), torch.randn(3, 4)
    labels = torch.tensor([1, 1, -1])
    term(Batch(mapped, teacher, mapped, labels=labels))
    moved = []
    for row in (0, 1):
        share = float(F.cosine_similarity(mapped[row], teacher[row], 0) * (start[1] @ teacher[row]))
        share = min(max(share, 0.0), 1.0)
        moved.append(share * start[1] + (1 - share) * teacher[row])
    torch.testing.assert_close(term.centres[1], F.normalize(moved[0] + moved[1], dim=0))
    assert torch.equal(term.centres[[0, 2]], start[[0, 2]])
    term.eval()
    before = term.centres.clone()
    term(Batch(mapped, teacher, mapped, labels=labels))
    assert torch.equal(term.centres, before)
