from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from states import same, weights
from torch import Tensor, nn

from recipes import progress
from recipes.faces import Comparison, Evaluation, evaluate
from recipes.tsmr import Callback, EpochReport, Stage, StepReport, TSMRConfig, TSMRReport, apply_tsmr
from reparam_kit import ExpressionError, InputError, NothingToDoError, ReparamError

CONFIG = TSMRConfig(stages=(Stage(epochs=3, cosine=1.0),), batch_size=8, lr=3e-3)


def changed(**choices: Any) -> TSMRConfig:
    return TSMRConfig(**{**vars(CONFIG), **choices})


class Interrupt(Callback):
    """Ends a run after an epoch, as by Ctrl-C."""

    def __init__(self, after: int) -> None:
        self.after = after

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        if epoch.epoch == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("loss", ["cosine", "mse"])
@pytest.mark.parametrize("block", [None, "dbb"])
def test_the_student_comes_to_resemble_the_teacher(
    rec: Path, student: nn.Module, teacher: nn.Module, block: str | None, loss: str
) -> None:
    before = weights(student)
    result = apply_tsmr(
        student, teacher, rec, config=changed(block=block, stages=(Stage(epochs=6, **{loss: 1.0}),))
    )
    losses = [epoch.losses[loss] for epoch in result.report.epochs]
    assert losses[-1] < 0.7 * losses[0]
    assert type(result.model) is type(student)
    assert list(result.model.state_dict()) == list(before)
    assert not result.model.training
    assert same(weights(student), before)
    assert not torch.equal(result.model.state_dict()["stem.weight"], before["stem.weight"])


@pytest.mark.parametrize(
    "choices",
    [
        {"block": None},
        {"block": "dbb", "workers": 1},
        {"block": "repvgg", "norm": "batch"},
        {"block": "dbb", "restore_bn": True},
        {"block": None, "restore_bn": True},
    ],
)
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_resumed_run_ends_with_the_same_bits(
    rec: Path,
    bin_file: Path,
    student: nn.Module,
    teacher: nn.Module,
    tmp_path: Path,
    choices: dict[str, Any],
    epoch: int,
) -> None:
    config = changed(**choices)
    whole = apply_tsmr(student, teacher, rec, bin_file, config)
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        apply_tsmr(
            student, teacher, rec, bin_file, config, checkpoint=checkpoint, callbacks=[Interrupt(epoch)]
        )
    torch.rand(7)  # another state of the generator than the interrupted run left
    resumed = apply_tsmr(student, teacher, rec, bin_file, config, checkpoint=checkpoint)
    assert same(weights(resumed.model), weights(whole.model))
    assert resumed.report.kept == whole.report.kept
    assert [e.losses for e in resumed.report.epochs] == [e.losses for e in whole.report.epochs]
    again = apply_tsmr(student, teacher, rec, bin_file, config, checkpoint=checkpoint)
    assert same(weights(again.model), weights(whole.model))


def test_the_number_of_workers_may_change_on_resuming(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    first = apply_tsmr(student, teacher, rec, config=CONFIG, checkpoint=checkpoint)
    again = apply_tsmr(student, teacher, rec, config=changed(workers=1), checkpoint=checkpoint)
    assert same(weights(first.model), weights(again.model))


def test_the_seed_decides_the_result(rec: Path, student: nn.Module, teacher: nn.Module) -> None:
    torch.manual_seed(11)
    first = weights(apply_tsmr(student, teacher, rec, config=CONFIG).model)
    drawn = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(drawn, torch.rand(1))  # the caller's generator is left as it was
    assert same(first, weights(apply_tsmr(student, teacher, rec, config=CONFIG).model))
    assert not same(first, weights(apply_tsmr(student, teacher, rec, config=changed(seed=1)).model))


def test_what_gets_worse_is_not_returned(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module
) -> None:
    """The student is perfect on the set, so nothing can beat it."""
    result = apply_tsmr(student, teacher, rec, bin_file, changed(lr=50.0, clip=1e3))
    (before,) = result.report.before
    assert before["accuracy"].value == 1
    assert result.report.kept == 0
    assert result.report.after == result.report.before
    assert same(weights(result.model), weights(student))


def test_the_best_epoch_is_returned(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluation, "rank", lambda self: next(ranks))
    monkeypatch.setattr(Comparison, "worse", lambda self, level: ())
    # Of the later epochs each with that of the best so far, which no other beats; then the student and it.
    ranks = iter([(1,), (2,), (2,), (2,), (0,), (2,)])
    result = apply_tsmr(student, teacher, rec, bin_file, changed(shares=()))
    assert result.report.kept == 1
    assert result.report.after == result.report.epochs[0].validation
    measured = evaluate(result.model, bin_file, CONFIG.student_input)
    assert measured.scores == pytest.approx(result.report.after[0].outcomes["scores"], abs=1e-5)


def test_without_a_validation_set_the_last_epoch_is_returned(
    rec: Path, student: nn.Module, teacher: nn.Module
) -> None:
    report = apply_tsmr(student, teacher, rec, config=CONFIG).report
    assert report.weight_change["stem.weight"] > 0
    assert (report.kept, report.before, report.after) == (3, (), ())


def test_the_report_is_json(rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module) -> None:
    report = json.loads(json.dumps(apply_tsmr(student, teacher, rec, bin_file, CONFIG).report.to_json()))
    assert TSMRConfig.from_json(report["config"]) == CONFIG.settled("embeddings", labelled=False)
    assert [point["stage"] for point in report["curve"]] == [1, 1, 1]
    assert set(report["gallery"]) == {"old-old", "new-new", "new-old"}
    assert set(report["weight_change"]) == {name for name, _ in student.named_parameters()}
    assert max(report["weight_change"].values()) == 0  # none of the epochs was better than the student
    assert report["images"] == 24
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2, 3]
    assert report["epochs"][0]["validation"][0]["pairs"] == report["before"][0]["pairs"] == 20
    assert all(len(identity) == 64 for identity in (report["student"], report["data"], *report["teachers"]))


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"lr": 1e-3}, r"with lr=0.003 \(now 0.001\):"),
        ({"block": None, "seed": 4}, r"with block='dbb' \(now 'plain'\), seed=0 \(now 4\):"),
        (
            {"stages": (Stage(epochs=3, mse=0.5),)},
            r"with stages\.0\.losses\.cosine=1\.0 \(now None\), stages\.0\.losses\.mse=None \(now 0\.5\):",
        ),
    ],
)
def test_a_checkpoint_of_another_choice_is_refused(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, choices: dict[str, Any], says: str
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    apply_tsmr(student, teacher, rec, config=CONFIG, checkpoint=checkpoint)
    with pytest.raises(InputError, match=says):
        apply_tsmr(student, teacher, rec, config=changed(**choices), checkpoint=checkpoint)


@pytest.mark.parametrize("what", ["student", "teachers", "val"])
def test_a_checkpoint_of_another_model_or_set_is_refused(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, what: str
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    apply_tsmr(student, teacher, rec, config=CONFIG, checkpoint=checkpoint)
    with torch.no_grad():
        if what != "val":
            (student if what == "student" else teacher).head.bias.add_(1e-3)  # type: ignore[union-attr, operator]
    with pytest.raises(InputError, match=f"with {what}"):
        apply_tsmr(student, teacher, rec, bin_file if what == "val" else None, CONFIG, checkpoint=checkpoint)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_refused(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, content: bytes | None
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    if content is None:
        torch.save(student, checkpoint)  # would have to be unpickled
    else:
        checkpoint.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.pt is not a checkpoint of this recipe, or damaged"):
        apply_tsmr(student, teacher, rec, config=CONFIG, checkpoint=checkpoint)


def test_divergence_is_an_error(rec: Path, student: nn.Module, teacher: nn.Module) -> None:
    with pytest.raises(ReparamError, match=r"no longer finite in epoch \d at step \d of 3: lower lr=1e\+30"):
        apply_tsmr(student, teacher, rec, config=changed(lr=1e30, warmup=0.0))


@pytest.mark.parametrize(
    ("choices", "error", "says"),
    [
        ({"batch_size": 25}, InputError, "24 training images do not fill a batch: lower batch_size=25"),
        (
            {"batch_size": 8, "images": 5},
            InputError,
            "5 training images do not fill a batch: lower batch_size=8",
        ),
        ({"block": "dbd"}, ExpressionError, "dbb"),
    ],
)
def test_choices_that_do_not_fit_are_refused(
    rec: Path,
    student: nn.Module,
    teacher: nn.Module,
    choices: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        apply_tsmr(student, teacher, rec, config=changed(**choices))


def test_a_model_with_nothing_to_expand_or_train_is_refused(
    rec: Path, student: nn.Module, teacher: nn.Module
) -> None:
    with pytest.raises(NothingToDoError):
        apply_tsmr(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), teacher, rec, config=CONFIG)
    with pytest.raises(InputError, match="nothing to train"):
        apply_tsmr(student.requires_grad_(False), teacher, rec, config=CONFIG)


class Deployed(nn.Module):
    """Gives the embedding as some exports do: one of two outputs, ``[N, D, 1, 1]``."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x)[:, :, None, None], x


def test_the_first_of_several_outputs_is_the_embedding(
    rec: Path, student: nn.Module, teacher: nn.Module
) -> None:
    plain = apply_tsmr(student, teacher, rec, config=CONFIG).model
    wrapped = apply_tsmr(Deployed(student), teacher, rec, config=CONFIG).model
    assert same(weights(wrapped.net), weights(plain))


def test_progress_is_a_line_for_each_pass_and_epoch(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    apply_tsmr(student, teacher, rec, bin_file, CONFIG, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    lines = [re.sub(r"^[-\d]{10} [\d:]{8} ", "", line) for line in err.splitlines()]
    names = [line.split(":")[0] for line in lines]
    assert names.index("deployed") < names.index("teacher") < names.index("epoch 1/3")
    assert names[-4:-1] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert re.fullmatch(r"judging epoch \d and shares of the way to it", names[-1])
    (deployed,) = re.findall(r"deployed: accuracy (\S+) on 10 genuine and 10 impostor pairs", err)
    for line in lines[-4:-1]:
        assert re.search(
            rf": accuracy deployed {deployed}, now \S+%, cosine 0\.\d+.* images/s, memory \S+ [kMG]B", line
        )
    assert ["ETA of the run 0" in line for line in lines[-4:-1]] == [True, True, False]


def test_nothing_is_printed_unless_asked(
    rec: Path,
    bin_file: Path,
    student: nn.Module,
    teacher: nn.Module,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "live", lambda: True)  # not in a terminal either
    apply_tsmr(student, teacher, rec, bin_file, CONFIG)
    assert capfd.readouterr() == ("", "")


class Told(Callback):
    """Notes all that it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def start(self, config: TSMRConfig, done: int) -> None:
        self.heard.append(("start", config.total_epochs, done))

    def step(self, step: StepReport) -> None:
        assert set(step.losses) == {"cosine"}
        self.heard.append((step.epoch, step.step, step.steps, step.images, step.point is not None))

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        assert "c1" not in dict(model.named_modules())
        self.heard.append(("epoch", epoch.epoch, list(model.state_dict())))

    def end(self, report: TSMRReport | None) -> None:
        self.heard.append(("end", report))


def test_a_callback_is_told_of_every_step_and_epoch(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path
) -> None:
    told, rest = Told(), Told()
    with pytest.raises(KeyboardInterrupt):
        apply_tsmr(
            student, teacher, rec, config=CONFIG, checkpoint=tmp_path / "c.pt", callbacks=[told, Interrupt(2)]
        )
    names = list(student.state_dict())
    epochs = [[(n, s, 3, 8, s == 3) for s in (1, 2, 3)] + [("epoch", n, names)] for n in (1, 2, 3)]
    assert told.heard == [("start", 3, 0), *epochs[0], *epochs[1], ("end", None)]
    result = apply_tsmr(student, teacher, rec, config=CONFIG, checkpoint=tmp_path / "c.pt", callbacks=(rest,))
    assert rest.heard == [("start", 3, 2), *epochs[2], ("end", result.report)]


@pytest.mark.parametrize(
    ("callbacks", "says"),
    [(Told(), "give \\[callback\\]"), ([Told], "is no instance of recipes.tsmr.Callback")],
)
def test_what_is_no_callback_is_refused(
    rec: Path, student: nn.Module, teacher: nn.Module, callbacks: Any, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        apply_tsmr(student, teacher, rec, config=CONFIG, callbacks=callbacks)
