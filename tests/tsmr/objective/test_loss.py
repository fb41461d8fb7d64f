"""Every loss there is, and a user's own: found by name, finite gradients, and the same end after an interruption."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from recipes.faces import FaceRecords
from recipes.tsmr import Adversary, Batch, Loss, Margin, Stage, Start, TSMRConfig, apply_tsmr
from recipes.tsmr.objective.loss import NEEDS
from recipes.tsmr.objective.objective import Objective, own_losses
from recipes.tsmr.objective.turn import Turn
from recipes.tsmr.stages import DISTIL, LOSSES, REFINE
from recipes.tsmr.training.stage import StageRun
from reparam_kit import InputError

BUILT_IN = [name for name in LOSSES if not LOSSES.foreign(name)]
CONFIG = TSMRConfig(
    batch_size=8, lr=3e-3, adversary=Adversary(hidden=8), margin=Margin("adaface", 0.2, 8.0, classes=4)
)


class Queue(Loss, name="test_queue", title="distance to the last batches", needs={"mapped", "teacher"}):
    """A user's: a parameter that trains, and a queue of the teacher's embeddings. Followed by another sentence."""

    rows: Tensor

    def start(self, start: Start) -> None:
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("rows", torch.zeros(12, start.teacher_size))

    def forward(self, batch: Batch) -> Tensor:
        against = torch.cat([batch.teacher, self.rows.clone()])
        return torch.logsumexp(self.scale * batch.mapped @ against.T, dim=1).mean()

    def after_step(self, batch: Batch) -> None:
        self.rows.copy_(torch.cat([batch.teacher, self.rows])[: len(self.rows)])

    def weight(self, done: float) -> float:
        return 0.5 + done / 2

    def figures(self) -> dict[str, float]:
        return {"length of the queue": float(self.rows.any(dim=1).sum())}


class Growing(Loss, name="test_growing", title="distance to what is remembered", needs={"mapped", "teacher"}):
    """A user's: memory that grows from nothing, and a mean that is not there before the first step."""

    rows: Tensor
    mean: Tensor | None

    def start(self, start: Start) -> None:
        self.register_buffer("rows", torch.zeros(0, start.teacher_size))
        self.register_buffer("mean", None)

    def forward(self, batch: Batch) -> Tensor:
        known = batch.teacher if self.mean is None else torch.cat([batch.teacher, self.rows, self.mean[None]])
        return torch.logsumexp(batch.mapped @ known.T, dim=1).mean()

    def after_step(self, batch: Batch) -> None:
        self.rows = torch.cat([batch.teacher, self.rows])[:20]
        self.mean = self.rows.mean(dim=0)


class Perceptual(
    Loss, name="test_perceptual", title="distance under a fixed net", needs={"mapped", "teacher"}
):
    """A user's: both are seen through a net that is not trained, and one that is."""

    def start(self, start: Start) -> None:
        size = start.teacher_size
        self.fixed = nn.Sequential(nn.Linear(size, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.fixed.eval().requires_grad_(False)
        self.trained = nn.Linear(8, 8)

    def forward(self, batch: Batch) -> Tensor:
        return (self.trained(self.fixed(batch.mapped)) - self.fixed(batch.teacher)).square().mean()


ALL = [*BUILT_IN, "test_queue", "test_growing", "test_perceptual"]


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Losses that are defined in the test are not known after it."""
    with monkeypatch.context() as patch:
        patch.setattr(LOSSES, "_known", dict(LOSSES._known))
        yield


def test_those_of_the_usual_stages_are_there() -> None:
    assert {*DISTIL.losses, *REFINE.losses} <= set(BUILT_IN)


@pytest.mark.parametrize("name", ALL)
def test_it_says_what_reports_call_it(name: str) -> None:
    loss = LOSSES[name]
    assert loss.name == name
    assert re.fullmatch(r"[^.\n]{5,60}", loss.title)
    assert loss.needs <= NEEDS


@pytest.mark.parametrize("name", ALL)
def test_a_run_of_it_alone_has_finite_gradients_and_goes_on_exactly_after_an_interruption(
    rec: Path,
    student: nn.Module,
    teacher: nn.Module,
    twin: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    stage = Stage(2, losses={name: 1.0})
    logits = LOSSES[name].task == "logits"
    between = Stage(1, mse=1.0) if logits else Stage(1, cosine=1.0)
    config = replace(CONFIG, stages=(stage, between, stage))
    teacher = twin if logits else teacher
    images: Any = list(FaceRecords(rec)) if logits else rec  # whose labels are the numbers of logits
    gradients: list[Tensor] = []

    def run(steps: int | None = None, **where: Any) -> Any:
        take_step = StageRun.take_step

        def take(self: StageRun, *args: Any) -> Any:
            if steps is not None and len(gradients) >= steps:
                raise KeyboardInterrupt
            taken = take_step(self, *args)
            gradients.append(taken[1])
            return taken

        with monkeypatch.context() as patch:
            patch.setattr(StageRun, "take_step", take)
            return apply_tsmr(student, teacher, images, config=config, **where)

    whole = run()
    assert all(gradient.isfinite() and gradient > 0 for gradient in gradients)
    for steps in (4, 11):  # within the first stage, and within the last
        gradients.clear()
        with pytest.raises(KeyboardInterrupt):
            run(steps, checkpoint=tmp_path / "run.pt")
    gone_on = run(checkpoint=tmp_path / "run.pt")
    assert gone_on.report.curve == whole.report.curve
    for key, tensor in whole.model.state_dict().items():
        assert torch.equal(gone_on.model.state_dict()[key], tensor)


def test_what_it_shows_is_in_the_curve(rec: Path, student: nn.Module, teacher: nn.Module) -> None:
    config = replace(CONFIG, stages=(Stage(2, losses={"test_queue": 1.0}),))
    report = apply_tsmr(student, teacher, rec, config=config).report
    assert [point.figures for point in report.curve] == [{"test_queue/length of the queue": 12.0}] * 2
    assert report.own_losses == own_losses(config)
    assert report.to_json()["own_losses"].keys() == {"test_queue"}


@pytest.mark.usefixtures("forgotten")
def test_the_title_is_the_first_sentence_unless_given() -> None:
    class Mine(Loss, name="mine"):
        """1 - cos to the next
        image's embedding. And more.
        """

    assert Mine.title == "1 - cos to the next image's embedding"
    assert LOSSES["mine"] is Mine


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("choices", "says"),
    [
        (
            {"name": "cosine"},
            "cannot be the loss 'cosine', which is .*embeddings.Cosine: give it another name",
        ),
        ({"name": "two words"}, "name='two words' of .*Mine is no name"),
        ({"name": "epochs"}, "name='epochs' of Mine has another meaning"),
        ({"name": "pop"}, "name='pop' of Mine has another meaning"),
        ({"name": "training"}, "name='training' of Mine has another meaning"),
        ({"name": 3}, "name=3 of Mine is no name: use letters, digits and _"),
        ({"name": "mine", "needs": "teacher"}, "Mine needs 'teacher', which is no set: write {'teacher'}"),
        ({"name": "mine", "needs": {3}}, "Mine needs 3, which no batch has"),
        (
            {"name": "mine", "needs": {"label"}},
            "Mine needs 'label', which no batch has: did you mean 'labels'?",
        ),
    ],
)
def test_a_class_that_cannot_be_a_loss_is_a_line(choices: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        type(Loss)("Mine", (Loss,), {}, **choices)
    assert "mine" not in list(LOSSES)


@pytest.mark.usefixtures("forgotten")
def test_a_weight_that_is_no_number_is_a_line(rec: Path, student: nn.Module, teacher: nn.Module) -> None:
    class Mine(Loss, name="mine"):
        def forward(self, batch: Batch) -> Tensor:
            return batch.student.mean()

        def weight(self, done: float) -> Any:
            """Forget to return."""

    with pytest.raises(InputError, match=r"weight\(\) of the loss 'mine' gives NoneType and not a number"):
        apply_tsmr(student, teacher, rec, config=replace(CONFIG, stages=(Stage(1, losses={"mine": 1.0}),)))


@pytest.mark.usefixtures("forgotten")
def test_a_class_defined_again_takes_the_place_of_the_old_one_and_is_other_code() -> None:
    found = []
    for factor in (1.0, 2.0):

        class Mine(Loss, name="mine"):
            scale = factor

            def forward(self, batch: Batch) -> Tensor:
                return self.scale * batch.student.mean()

        config = TSMRConfig(stages=(Stage(losses={"mine": 1.0}),))
        found.append(own_losses(config)["mine"])
        assert LOSSES["mine"] is Mine
        assert own_losses(config)["mine"] == found[-1]
    assert found[0] != found[1]
    assert own_losses(TSMRConfig()) == {}


@pytest.mark.usefixtures("forgotten")
def test_the_number_of_its_code_does_not_hang_on_what_else_there_is() -> None:
    config = TSMRConfig(stages=(Stage(losses={"test_queue": 1.0}),))
    before = own_losses(config)

    class Other(Loss, name="other"):
        """Another."""

    assert own_losses(config) == before


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("reads", "says"),
    [
        (
            lambda batch: batch.old.mean(),
            "a loss reads batch.old, and none of its stage needs it: write it in needs=",
        ),
        (lambda batch: batch.student, r"the loss 'mine' gives \[8, 8\] and not one number"),
        (lambda batch: 1.0, "the loss 'mine' gives float and not one number"),
        (
            lambda batch: batch.student.argmax(1).sum(),
            r"the loss 'mine' gives torch.int64 and not one number",
        ),
        (
            lambda batch: batch.student.mean() * 1j,
            r"the loss 'mine' gives torch.complex64 and not one number",
        ),
        (
            lambda batch: batch.student.detach().mean(),
            "nothing that is trained has a gradient by the losses mine",
        ),
    ],
)
def test_a_loss_that_is_wrong_is_a_line(
    rec: Path, student: nn.Module, teacher: nn.Module, reads: Any, says: str
) -> None:
    class Mine(Loss, name="mine"):
        def forward(self, batch: Batch) -> Tensor:
            return reads(batch)

    with pytest.raises(InputError, match=says):
        apply_tsmr(student, teacher, rec, config=replace(CONFIG, stages=(Stage(1, losses={"mine": 1.0}),)))


@pytest.mark.usefixtures("forgotten")
def test_a_loss_without_a_forward_is_a_line(rec: Path, student: nn.Module, teacher: nn.Module) -> None:
    class Mine(Loss, name="mine"):
        """Computes nothing."""

    with pytest.raises(InputError, match=r"the loss 'mine' has no forward\(self, batch\)"):
        apply_tsmr(student, teacher, rec, config=replace(CONFIG, stages=(Stage(1, losses={"mine": 1.0}),)))


@pytest.mark.usefixtures("forgotten")
def test_a_parameter_that_is_made_too_late_is_a_line(
    rec: Path, student: nn.Module, teacher: nn.Module
) -> None:
    class Mine(Loss, name="mine"):
        def forward(self, batch: Batch) -> Tensor:
            if not hasattr(self, "factor"):
                self.factor = nn.Parameter(torch.ones(()))
            return self.factor * batch.student.mean()

    with pytest.raises(InputError, match="the loss 'mine' made parameters in its first step"):
        apply_tsmr(student, teacher, rec, config=replace(CONFIG, stages=(Stage(1, losses={"mine": 1.0}),)))


def test_a_net_that_a_loss_has_frozen_stays_as_it_is(
    rec: Path, student: nn.Module, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Perceptual, dict[str, Tensor]]] = []
    start = Perceptual.start

    def noted(self: Perceptual, given: Start) -> None:
        start(self, given)
        made.append((self, {name: value.clone() for name, value in self.state_dict().items()}))

    monkeypatch.setattr(Perceptual, "start", noted)
    stages = (Stage(1, losses={"test_perceptual": 1.0}), Stage(1, cosine=1.0))
    apply_tsmr(student, teacher, rec, config=replace(CONFIG, stages=(*stages, stages[0])))
    ((loss, before),) = made
    moved = {name for name, value in loss.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"trained.weight", "trained.bias"}


class People:
    """Of ``Examples``, what losses start from."""

    def identity_means(self, of: str) -> Tensor:
        return torch.eye(3, 4 if of == "old" else 6)


def test_a_stage_trains_only_what_it_uses() -> None:
    config = TSMRConfig(stages=(Stage(cosine=1.0, margin=1.0), Stage(cosine=1.0, adversarial=0.1)))
    made = Objective(Turn(4, 6), config)
    made.start(Start(4, 6, cast("Any", People()), config, torch.device("cpu"), Batch(torch.eye(4))))
    for stage, trained in zip(config.stages, ({"parts.margin.centres"}, set()), strict=True):
        made.begin(stage)
        assert {key for key, parameter in made.named_parameters() if parameter.requires_grad} == trained
        assert made.active.keys() == stage.losses.keys()
