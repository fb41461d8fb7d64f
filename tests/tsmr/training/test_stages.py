"""Whole runs with what a run can be made of: both stages, every term, teachers, averages, precision."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from states import same, weights
from torch import Tensor, nn

from recipes.faces import Embedder, FaceRecords, PairSet, PairsJudge, input_preset, read_pairs
from recipes.tsmr import Adversary, Augment, Margin, Stage, TSMRConfig, apply_tsmr
from recipes.tsmr.stages import LOSSES
from recipes.tsmr.targets.teachers import OpenedTeacher
from recipes.tsmr.training.checks import warn_of_teacher_inputs
from recipes.tsmr.training.stage import StageRun
from reparam_kit import InputError

FIRST = Stage(epochs=2, cosine=1.0, margin=0.1)
SECOND = Stage(epochs=2, rate=0.5, cosine=1.0, adversarial=0.2)
CONFIG = TSMRConfig(
    stages=(FIRST, SECOND),
    batch_size=8,
    lr=3e-3,
    adversary=Adversary(hidden=8),
    margin=Margin(scale=8.0, classes=4),
)


class Plain(nn.Module):
    """Without BatchNorm and dropout, so that a batch can be cut in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.PReLU(8), nn.Conv2d(8, 8, 3, 2, 1), nn.Flatten(), nn.Linear(128, 8)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


@contextmanager
def killed(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    """A run in this block ends before step ``step``, wherever in an epoch that is."""
    take_step, taken = StageRun.take_step, iter(range(1, step))

    def take_step_or_die(self: StageRun, *args: Any) -> Any:
        if next(taken, None) is None:
            raise KeyboardInterrupt
        return take_step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "take_step", take_step_or_die)
        yield


@pytest.mark.parametrize("step", [2, 5, 7, 11])
@pytest.mark.parametrize("choices", [{}, {"ema": 0.9, "keep_gallery": 0.5, "augment": Augment(colour=0.5)}])
def test_a_run_killed_at_any_step_of_either_stage_ends_with_the_same_bits(
    rec: Path,
    student: nn.Module,
    teacher: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    choices: dict[str, Any],
    step: int,
) -> None:
    config = replace(CONFIG, **choices)
    whole = apply_tsmr(student, teacher, rec, config=config)
    checkpoint = tmp_path / "checkpoint.pt"
    with killed(monkeypatch, step), pytest.raises(KeyboardInterrupt):
        apply_tsmr(student, teacher, rec, config=config, checkpoint=checkpoint)
    torch.rand(3)
    resumed = apply_tsmr(student, teacher, rec, config=config, checkpoint=checkpoint)
    assert same(weights(resumed.model), weights(whole.model))
    assert resumed.report.curve == whole.report.curve


def test_the_second_stage_has_its_terms_and_its_discriminator(
    rec: Path, student: nn.Module, teacher: nn.Module
) -> None:
    report = apply_tsmr(student, teacher, rec, config=CONFIG).report
    assert [epoch.stage for epoch in report.epochs] == [1, 1, 2, 2]
    assert [set(epoch.losses) for epoch in report.epochs] == [{"cosine", "margin"}] * 2 + [
        {"cosine", "adversarial"}
    ] * 2
    accuracies = [point.figures.get("adversarial/accuracy of the discriminator") for point in report.curve]
    assert [accuracy is None for accuracy in accuracies] == [True, True, False, False]
    assert all(0 <= (accuracy or 0) <= 1 for accuracy in accuracies)


@pytest.mark.parametrize("order", [(SECOND, FIRST), (SECOND,), (FIRST,)])
def test_stages_come_in_any_order(
    rec: Path, student: nn.Module, teacher: nn.Module, order: tuple[Stage, ...]
) -> None:
    report = apply_tsmr(student, teacher, rec, config=replace(CONFIG, stages=order)).report
    assert ["adversarial" in epoch.losses for epoch in report.epochs] == [
        "adversarial" in stage.losses for stage in order for _ in range(stage.epochs)
    ]


@pytest.mark.parametrize("term", [name for name in LOSSES if not LOSSES.foreign(name)])
def test_every_term_can_be_all_there_is(
    rec: Path, student: nn.Module, teacher: nn.Module, twin: nn.Module, term: str
) -> None:
    stage = Stage(epochs=1, losses={term: 1.0})
    logits = LOSSES[term].task == "logits"
    images: Any = list(FaceRecords(rec)) if logits else rec  # whose labels are the numbers of logits
    result = apply_tsmr(student, twin if logits else teacher, images, config=replace(CONFIG, stages=(stage,)))
    (epoch,) = result.report.epochs
    assert set(epoch.losses) == {term}
    assert result.report.weight_change["stem.weight"] > 0


@pytest.mark.parametrize("kind", ["arcface", "cosface", "adaface"])
def test_identities_are_learnt_with_every_margin(
    rec: Path, student: nn.Module, teacher: nn.Module, kind: Any
) -> None:
    stage = Stage(epochs=10, margin=1.0, centres=1.0)
    config = replace(CONFIG, lr=1e-2, stages=(stage,), margin=Margin(kind, 0.2, 8.0))
    epochs = apply_tsmr(student, teacher, rec, config=config).report.epochs
    for term in ("margin", "centres"):
        assert epochs[-1].losses[term] < 0.95 * epochs[0].losses[term]


def new_to_old(old: nn.Module, new: nn.Module, rec: Path) -> float:
    images = list(FaceRecords(rec))
    preset = input_preset(CONFIG.student_input)
    a, b = (torch.from_numpy(Embedder(model, preset).embed(images)) for model in (old, new))
    return float(torch.cosine_similarity(a, b).mean())


def test_keeping_the_gallery_keeps_new_embeddings_near_old_ones(rec: Path, teacher: nn.Module) -> None:
    torch.manual_seed(3)
    student = Plain().eval()
    config = replace(CONFIG, stages=(Stage(epochs=4, relational=20.0),), lr=1e-2)
    free = apply_tsmr(student, teacher, rec, config=config)
    kept = apply_tsmr(student, teacher, rec, config=replace(config, keep_gallery=1.0))
    assert new_to_old(student, kept.model, rec) > new_to_old(student, free.model, rec) + 0.02
    assert "gallery" in kept.report.epochs[0].losses


@pytest.mark.parametrize("combine", ["concat", "mean"])
def test_several_teachers(rec: Path, student: nn.Module, teacher: nn.Module, combine: Any) -> None:
    torch.manual_seed(7)
    config = replace(
        CONFIG, combine=combine, teacher_input=("insightface", "raw"), stages=(Stage(4, cosine=1.0),)
    )
    report = apply_tsmr(student, [teacher, Plain()], rec, config=config).report
    assert len(report.teachers) == 2
    assert report.epochs[-1].losses["cosine"] < 0.9 * report.epochs[0].losses["cosine"]


@pytest.mark.parametrize(("teachers", "says"), [(0, "for 0 teachers"), (3, "2 input presets for 3 teachers")])
def test_each_teacher_has_a_preset(
    rec: Path, student: nn.Module, teacher: nn.Module, teachers: int, says: str
) -> None:
    config = replace(CONFIG, teacher_input=("insightface", "raw"))
    with pytest.raises(InputError, match=says):
        apply_tsmr(student, [teacher] * teachers, rec, config=config)


class Guess(nn.Module):
    """Answers that have nothing to do with who is on the image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(1e4 * x.flatten(1).sum(dim=1, keepdim=True) * torch.arange(1, 9))


def test_a_teacher_at_chance_stops_the_run(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module
) -> None:
    with pytest.raises(InputError, match="teacher 2 scores at chance on the validation set"):
        apply_tsmr(student, [teacher, Guess()], rec, bin_file, CONFIG)


class Red(nn.Module):
    """Sees the first channel alone: the order of channels matters to it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 4, 4)
        nn.init.orthogonal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x[:, :1]).flatten(1)
        return out


@pytest.mark.parametrize("asked", ["insightface", "insightface-bgr"])
def test_a_better_input_is_named_loudly(
    rec: Path, bin_file: Path, caplog: pytest.LogCaptureFixture, asked: str
) -> None:
    pairs = read_pairs(bin_file)
    grey = PairSet([_without_blue(image) for image in pairs.images], pairs.same)
    config = replace(CONFIG, student_input=asked, stages=(Stage(1, cosine=1.0),))
    report = apply_tsmr(Red(), Red(), rec, grey, config).report
    assert report.inputs.best != "insightface-bgr"
    warned = "the student does better with input" in caplog.text
    assert warned == (asked == "insightface-bgr")


def test_a_better_input_of_a_teacher_is_named_as_loudly(
    rec: Path, bin_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = read_pairs(bin_file)
    noisy = PairSet([_without_blue(image) for image in pairs.images], pairs.same)
    better = "teacher 1 does better with input 'insightface' .* than with 'insightface-bgr' as asked for"
    config = replace(CONFIG, teacher_input="insightface-bgr", stages=(Stage(1, cosine=1.0),))
    with pytest.raises(InputError, match=f"teacher 1 scores at chance .*: {better}"):
        apply_tsmr(Red(), Red(), rec, noisy, config)
    embed = Embedder(Red(), input_preset("insightface-bgr"))
    warn_of_teacher_inputs([OpenedTeacher(Red(), "teacher 1", embed)], PairsJudge(noisy))
    assert re.search(better, caplog.text)
    caplog.clear()
    embed = Embedder(Red(), input_preset("insightface"))
    warn_of_teacher_inputs([OpenedTeacher(Red(), "teacher 1", embed)], PairsJudge(noisy))
    assert not caplog.text


def _without_blue(image: bytes) -> bytes:
    """The image with noise where blue was."""
    import io

    import numpy as np
    from PIL import Image

    pixels = np.array(Image.open(io.BytesIO(image)))
    pixels[..., 2] = np.random.default_rng(len(image)).integers(0, 256, pixels.shape[:2])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_accumulated_batches_are_one_large_batch(rec: Path, teacher: nn.Module) -> None:
    student = Plain()
    config = replace(CONFIG, stages=(Stage(2, cosine=1.0),), block=None)
    large = apply_tsmr(student, teacher, rec, config=config).model
    parts = apply_tsmr(student, teacher, rec, config=replace(config, batch_size=4, accumulate=2)).model
    for name, tensor in large.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("choices", [{"ema": 0.9}, {"bf16": True}, {"augment": Augment(0.2, 0.2, 0.2, 0.2)}])
def test_averages_half_precision_and_changed_images_train_too(
    rec: Path, student: nn.Module, teacher: nn.Module, choices: dict[str, Any]
) -> None:
    plain = apply_tsmr(student, teacher, rec, config=CONFIG)
    other = apply_tsmr(student, teacher, rec, config=replace(CONFIG, **choices))
    assert not same(weights(plain.model), weights(other.model))
    assert other.report.epochs[-1].losses["cosine"] < other.report.epochs[0].losses["cosine"]


def test_tensorboard_gets_every_curve(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    apply_tsmr(student, teacher, rec, bin_file, CONFIG, log_to=f"tensorboard:{tmp_path}")
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert {
        "loss/cosine",
        "loss/margin",
        "loss/adversarial",
        "lr",
        "adversarial/accuracy of the discriminator",
    } <= set(events.Tags()["scalars"])
    assert len(events.Scalars("validation/accuracy")) == 4
