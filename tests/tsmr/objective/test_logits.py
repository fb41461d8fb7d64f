from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from recipes.tsmr import TSMRConfig
from recipes.tsmr.objective.logits import Correlation, Divergence, Labels, _Softened
from recipes.tsmr.objective.loss import Batch, Start
from recipes.tsmr.targets.task import Task, as_logits
from reparam_kit import InputError


def batch(rows: int = 6, classes: int = 5) -> Batch:
    torch.manual_seed(0)
    return Batch(
        student=3 * torch.randn(rows, classes),
        teacher=3 * torch.randn(rows, classes),
        labels=torch.tensor([0, 4, -1, 2, -3, 4]),
    )


def started(kind: type[Any], temperature: float = 1.0, labels: Any = None, size: int = 5) -> Any:
    loss = kind()
    examples = cast("Any", SimpleNamespace(labels=labels))
    config = TSMRConfig(temperature=temperature)
    loss.start(Start(size, size, examples, config, torch.device("cpu"), cast("Any", None)))
    return loss


def probabilities(rows: Tensor, temperature: float) -> np.ndarray:
    powers = np.exp(rows.double().numpy() / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_the_mean_divergence_times_the_square_of_the_temperature(temperature: float) -> None:
    of = batch()
    ours, theirs = (probabilities(rows, temperature) for rows in (of.student, of.teacher))
    by_hand = np.mean([np.sum(t * np.log(t / s)) for s, t in zip(ours, theirs, strict=True)])
    assert float(started(Divergence, temperature)(of)) == pytest.approx(temperature**2 * by_hand, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_correlates_images_and_classes(temperature: float) -> None:
    of = batch()
    ours, theirs = (probabilities(rows, temperature) for rows in (of.student, of.teacher))
    by_hand = sum(
        1 - np.mean([np.corrcoef(s, t)[0, 1] for s, t in zip(first, second, strict=True)])
        for first, second in ((ours, theirs), (ours.T, theirs.T))
    )
    assert float(started(Correlation, temperature)(of)) == pytest.approx(temperature**2 * by_hand, rel=1e-4)


def test_labels_is_the_cross_entropy_of_images_that_have_one() -> None:
    of = batch()
    chosen = probabilities(of.student, 1.0)[[0, 1, 3, 5], [0, 4, 2, 4]]
    assert float(Labels()(of)) == pytest.approx(-np.log(chosen).mean(), rel=1e-5)
    unknown = Batch(student=of.student.requires_grad_(), labels=torch.full((6,), -1))
    loss = Labels()(unknown)
    loss.backward()
    assert float(loss.detach()) == 0
    assert of.student.grad is not None
    assert not of.student.grad.any()


@pytest.mark.parametrize("kind", [Divergence, Correlation])
@pytest.mark.parametrize("temperature", [0.5, 20.0])
def test_a_student_that_gives_the_teachers_logits_is_at_rest(
    kind: type[_Softened], temperature: float
) -> None:
    rows = (3 * torch.randn(6, 5)).requires_grad_()
    loss = started(kind, temperature)(Batch(student=rows, teacher=rows.detach() + 2))  # of each image, alike
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-4)
    assert rows.grad is not None
    assert float(rows.grad.abs().max()) < 1e-3


def test_one_image_and_one_class_alike_for_all_have_finite_gradients() -> None:
    for rows in (torch.zeros(1, 5), torch.zeros(4, 5)):
        rows.requires_grad_()
        (started(Correlation)(Batch(student=rows, teacher=torch.randn(len(rows), 5)))).backward()
        assert rows.grad is not None
        assert rows.grad.isfinite().all()


def test_a_label_beyond_the_logits_is_refused() -> None:
    started(Labels, labels=np.array([0, 4, -1]))
    with pytest.raises(InputError, match="have labels up to 5, and the student 5 logits"):
        started(Labels, labels=np.array([0, 5]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_a_softmax_gives_becomes_logits_of_the_same_softmax(dtype: torch.dtype) -> None:
    logits = 4 * torch.randn(7, 9)
    given = logits.softmax(dim=1).to(dtype).float()
    torch.testing.assert_close(as_logits(given).softmax(dim=1), logits.softmax(dim=1), rtol=2e-2, atol=1e-3)
    assert torch.equal(as_logits(logits), logits)


def test_a_probability_of_zero_has_a_finite_gradient() -> None:
    rows = torch.tensor([[1.0, 0.0, 0.0], [2.0, -1.0, 0.5]], requires_grad=True)
    as_logits(rows).square().sum().backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("embeddings", [0.0, 0.0], "the teacher's embedding of training image 8 is zero or not finite"),
        (
            "logits",
            [float("nan"), 0.0],
            "the teacher's output of training image 8 is not finite, or beyond 65504",
        ),
        ("logits", [1e5, 0.0], "the teacher's output of training image 8 is not finite, or beyond 65504"),
    ],
)
def test_rows_that_cannot_be_kept_are_named(name: Any, row: list[float], says: str) -> None:
    rows = torch.tensor([[1.0, 2.0], row])
    with pytest.raises(InputError, match=says):
        Task(name).teacher(rows, torch.tensor([7, 8]), "teacher")


def test_embeddings_are_kept_at_length_1_and_logits_and_maps_as_they_are() -> None:
    rows, index = torch.randn(3, 4), torch.arange(3)
    assert torch.equal(Task("logits").teacher(rows, index, "t"), rows)
    assert torch.equal(Task("maps").teacher(rows[:, :, None, None], index, "t")[:, :, 0, 0], rows)
    unit = Task("embeddings").teacher(rows, index, "t")
    torch.testing.assert_close(unit, rows / rows.norm(dim=1, keepdim=True))
