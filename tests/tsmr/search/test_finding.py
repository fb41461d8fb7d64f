"""The choices that a run leaves open: found by trials and by the time there is, and found again by the next run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from states import same, weights
from torch import nn

from recipes.faces import Figure, Judge, PairsJudge, Verdict
from recipes.tsmr import Callback, EpochReport, Stage, TSMRConfig, TSMRResult, apply_tsmr, beginning
from recipes.tsmr.candidates import CANDIDATES, Hyperparameters
from recipes.tsmr.search import finding, planning, trials, trying
from recipes.tsmr.search.stored import NAME
from recipes.tsmr.search.trials import ROUNDS
from recipes.tsmr.training.trainer import DivergedError, Trainer
from reparam_kit import InputError, fingerprint

SIX = (Stage(6, cosine=1.0),)
OPEN = TSMRConfig(block=None, batch_size=8, epochs=120, auto=True, shares=())
TRIALS = sum(many for many, _ in ROUNDS[0])


@pytest.fixture
def searched(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run it; the epochs of the run itself are one."""
    found = finding.find

    def short(beginning: Any, *args: Any) -> Any:
        result = found(beginning, *args)
        config = beginning.given.config
        beginning.settle(replace(config, stages=(replace(config.plan.stages[0], epochs=1),)))
        return result

    monkeypatch.setattr("recipes.tsmr.prepare.find", short)

    def run(config: TSMRConfig = OPEN, **options: Any) -> TSMRResult[nn.Module]:
        return apply_tsmr(student, teacher, rec, bin_file, config, **options)

    return run


def forbidden(*args: Any, **options: Any) -> Any:
    raise AssertionError("it is found already")


def test_the_choices_of_the_best_trial_are_the_run_s(
    searched: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    report = searched(progress=True).report
    _, said = capfd.readouterr()
    assert re.findall(r" trial (\d) of 6: lr ", said) == [str(number + 1) for number in range(TRIALS)]
    assert len(report.trials) == TRIALS
    many, _ = ROUNDS[0][1]
    longer, first = report.trials[:many], report.trials[many:]
    assert {trial.steps for trial in longer} == {2 * first[0].steps}
    best_first = [trial.choices for trial in first[:many]]
    assert all(trial.choices in best_first for trial in longer)
    for ranked in (longer, first):
        sure = [trial.surely for trial in ranked]
        assert None not in sure
        assert sure[1:] == sorted(sure[1:], reverse=True)
        assert sure[0] >= max(sure) - 0.25
    best = report.trials[0].choices
    assert best in CANDIDATES
    stage = report.config.stages[0]
    assert (report.config.lr, report.config.restore_bn, stage.losses) == (
        best.lr,
        best.restore_bn,
        best.losses,
    )
    assert json.dumps(report.to_json()["trials"])


@pytest.mark.parametrize("candidate", CANDIDATES[1::2])
def test_the_run_by_what_was_found_is_the_run_that_found_it(
    searched: Any, candidate: Hyperparameters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trials leave nothing behind: not in the student, and not in the generator."""
    monkeypatch.setattr(trials, "CANDIDATES", len(CANDIDATES) * (candidate,))
    found = searched()
    augment = found.report.config.augment
    assert candidate.augment == {name: share for name, share in asdict(augment).items() if share}
    assert same(weights(found.model), weights(searched(found.report.config).model))


def test_the_next_run_starts_with_what_was_found(
    searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = searched(cache=tmp_path).report
    monkeypatch.setattr(finding, "search", forbidden)
    again = searched(cache=tmp_path).report
    other = searched(replace(OPEN, seed=5), cache=tmp_path).report
    for report in (again, other):
        assert report.config.lr == first.config.lr
        assert report.trials == first.trials
    with pytest.raises(AssertionError, match="found already"):
        searched(replace(OPEN, block="repvgg"), cache=tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"found": 3}', "changed"])
def test_a_damaged_file_of_what_was_found_is_found_anew(searched: Any, tmp_path: Path, damage: Any) -> None:
    first = searched(cache=tmp_path).report
    path = tmp_path / NAME
    whole = path.read_bytes()
    damaged = whole.replace(b"0.0002", b"0.9002") if damage == "changed" else damage
    assert damaged != whole
    path.write_bytes(damaged)
    report = searched(cache=tmp_path).report
    assert [t.choices for t in report.trials] == [t.choices for t in first.trials]
    assert path.read_bytes() != damaged
    assert json.loads(path.read_bytes())["found"]["choices"] == asdict(first.trials[0].choices)


def _earlier_trials(found: dict[str, Any]) -> None:
    for trial in found["trials"]:
        del trial["share"], trial["surely"]
        trial["worse"] = []


def _other_candidate(found: dict[str, Any]) -> None:
    found["choices"]["lr"] = found["trials"][0]["choices"]["lr"] = 0.123


def _bare_choices(found: dict[str, Any]) -> None:
    found["choices"] = {"lr": 2e-4}


@pytest.mark.parametrize("change", [_earlier_trials, _other_candidate, _bare_choices])
def test_what_another_version_found_is_found_anew(
    searched: Any, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    first = searched(cache=tmp_path).report
    path = tmp_path / NAME
    held = json.loads(path.read_bytes())
    change(held["found"])
    held["checksum"] = fingerprint([held["run"], held["search"], json.dumps(held["found"])])
    path.write_text(json.dumps(held))
    report = searched(cache=tmp_path).report
    assert [trial.choices for trial in report.trials] == [trial.choices for trial in first.trials]


def test_trials_are_judged_on_a_part_of_the_examples_and_the_run_on_all(
    searched: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    judged: list[int] = []
    judge = PairsJudge.judge

    def counted(self: PairsJudge, *args: Any) -> Any:
        judged.append(len(self.pairs))
        return judge(self, *args)

    monkeypatch.setattr(PairsJudge, "judge", counted)
    whole = searched().report
    pairs = whole.before[0].pairs
    assert judged.count(pairs) > TRIALS
    judged.clear()
    monkeypatch.setattr(trying, "JUDGED", pairs // 2)
    report = searched(progress=True).report
    assert judged.count(pairs // 2) == TRIALS + 1  # the deployed model besides
    assert report.before[0].pairs == report.after[0].pairs == pairs
    assert (
        f"trials are judged on {pairs // 4} genuine and {pairs // 4} impostor pairs" in capfd.readouterr().err
    )


def test_a_trial_that_diverges_is_the_last(searched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = Trainer.run_epoch

    def run_epoch(self: Trainer, *args: Any) -> Any:
        if self.config.restore_bn:
            raise DivergedError("it did")
        return epoch(self, *args)

    monkeypatch.setattr(Trainer, "run_epoch", run_epoch)
    report = searched().report
    assert not report.config.restore_bn
    assert [trial.shown for trial in report.trials[-2:]] == ["diverged", "diverged"]


def test_a_trial_is_judged_near_the_start_of_its_way(searched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trying, "PART", 0.0)
    report = searched().report
    assert {trial.value for trial in report.trials} == {report.before[0].deciding.value}
    assert {trial.surely for trial in report.trials} == {0.0}


class Steady(Judge):
    """Says by one figure, without examples, how far the first weight is from zero."""

    def judge(self, model: Any, input: Any = "insightface", embedding: str | None = None) -> Verdict:
        size = float(next(iter(model.state_dict().values())).double().norm())
        return Verdict(figures=(Figure("size", size, share=False),), decides="size")


def test_without_intervals_the_figure_that_decides_ranks(
    rec: Path, student: nn.Module, teacher: nn.Module, searched: Any
) -> None:
    config = replace(OPEN, task="embeddings")
    trials = apply_tsmr(student, teacher, rec, Steady(), config).report.trials
    assert {trial.surely for trial in trials} == {None}
    values = [trial.value for trial in trials]
    many, _ = ROUNDS[0][1]
    for ranked in (values[:many], values[many:]):
        assert len(set(ranked)) > 1
        assert ranked == sorted(ranked, reverse=True)


class Told(Callback):
    def __init__(self, stop: int = 0) -> None:
        self.config: TSMRConfig | None = None
        self.stop = stop

    def start(self, config: TSMRConfig, done: int) -> None:
        self.config = config

    def epoch(self, epoch: EpochReport, model: nn.Module) -> None:
        if epoch.epoch == self.stop:
            raise KeyboardInterrupt


def test_a_budget_says_how_long_and_an_interrupted_run_keeps_to_it(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, monkeypatch: Any
) -> None:
    config = TSMRConfig(block=None, batch_size=8, budget=0.03, auto=False, shares=())
    told = Told(stop=1)
    where = {"cache": tmp_path, "checkpoint": tmp_path / "checkpoint.pt"}
    with pytest.raises(KeyboardInterrupt):
        apply_tsmr(student, teacher, rec, bin_file, config, callbacks=[told], **where)
    planned = told.config
    assert planned is not None
    assert planned.steps is not None
    assert planned.total_epochs * planned.steps <= 30 * 24 // 8
    monkeypatch.setattr(planning, "lasting", forbidden)
    report = apply_tsmr(student, teacher, rec, bin_file, config, **where).report  # type: ignore[arg-type]
    assert (report.config.steps, report.config.stages) == (planned.steps, planned.stages)
    assert len(report.epochs) == planned.total_epochs


def test_as_many_images_are_drawn_as_there_is_time_to_ask_about(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "affordable", lambda *args: 16)
    config = TSMRConfig(block=None, batch_size=8, budget=0.02)
    first = apply_tsmr(student, teacher, rec, config=config, cache=tmp_path).report
    assert first.images == 16
    assert len({len(path.read_bytes()) for path in tmp_path.glob("teacher-*.npy")}) == 1
    monkeypatch.setattr(planning, "affordable", forbidden)
    assert apply_tsmr(student, teacher, rec, config=config, cache=tmp_path).report.data == first.data


def test_without_a_judge_the_usual_run_stops_half_way(
    rec: Path, student: nn.Module, teacher: nn.Module
) -> None:
    config = TSMRConfig(block=None, batch_size=8, epochs=2)
    half, whole = (apply_tsmr(student, teacher, rec, config=c) for c in (config, replace(config, share=1.0)))
    assert (half.report.share, whole.report.share) == (0.5, 1.0)
    for name, old in weights(student).items():
        if old.is_floating_point():
            middle = (old + weights(whole.model)[name]) / 2
            torch.testing.assert_close(weights(half.model)[name], middle)
    chosen = TSMRConfig(block=None, batch_size=8, stages=(Stage(1, cosine=1.0),))
    assert apply_tsmr(student, teacher, rec, config=chosen).report.share == 1


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        ({"budget": 5.0, "epochs": 2}, "budget: decides how long is trained, and epochs or steps are given"),
        ({"budget": 5.0, "steps": 2}, "budget: decides how long is trained, and epochs or steps are given"),
        ({"auto": True, "lr": 1e-3}, "auto: looks for lr and restore_bn, and one of them is given"),
        ({"auto": True, "restore_bn": True}, "auto: looks for lr"),
    ],
)
def test_what_contradicts_is_a_line(choices: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TSMRConfig(**choices)


def test_what_judging_will_take_is_not_planned_with(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nets are asked about the images in a share of what is left without the judging of three models at the end."""
    judged, asked = beginning._judged, []
    monkeypatch.setattr(beginning, "_judged", lambda given: (judged(given)[0], 10.0))

    def affordable(views: Any, nets: Any, config: Any, seconds: float, processes: Any) -> int:
        asked.append(seconds)
        return len(views)

    monkeypatch.setattr(planning, "affordable", affordable)
    config = TSMRConfig(block=None, batch_size=8, budget=10.0, auto=False, shares=(0.5, 1.0), steps=None)
    monkeypatch.setattr(planning, "lasting", lambda config, *args: replace(config, steps=1))
    apply_tsmr(student, teacher, rec, bin_file, config)
    assert 400 < asked[0] <= 0.9 * 600 - 3 * 10


@pytest.mark.parametrize(("examples", "takes"), [(10, (0.0, 5.0)), (1000, (10.0, 10.0))])
def test_trials_are_planned_with_what_judging_one_takes(
    rec: Path,
    bin_file: Path,
    student: nn.Module,
    teacher: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    examples: int,
    takes: tuple[float, float],
) -> None:
    judged, planned = beginning._judged, []

    def plan(seconds: float, judging: float, *rest: float) -> Any:
        planned.append(judging)
        return (), 0

    monkeypatch.setattr(beginning, "_judged", lambda given: (judged(given)[0], 10.0))
    monkeypatch.setattr(trying, "JUDGED", examples)
    monkeypatch.setattr(planning, "plan", plan)
    monkeypatch.setattr(planning, "lasting", lambda config, *args: replace(config, steps=1))
    config = TSMRConfig(block=None, batch_size=8, budget=10.0, auto=True, shares=())
    report = apply_tsmr(student, teacher, rec, bin_file, config).report
    assert not report.trials
    assert takes[0] <= planned[0] <= takes[1]


@pytest.mark.parametrize(
    ("takes", "left"),
    [(1.0, (0.2, 0.5, 0.7)), (30.0, (0.2, 0.5, 0.7)), (50.0, (0.5, 0.7)), (100.0, (0.5,)), (300.0, ())],
)
def test_few_shares_are_judged_where_judging_would_take_the_time_to_train(
    rec: Path,
    bin_file: Path,
    student: nn.Module,
    teacher: nn.Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    takes: float,
    left: tuple[float, ...],
) -> None:
    judged = beginning._judged
    monkeypatch.setattr(beginning, "_judged", lambda given: (judged(given)[0], takes))
    monkeypatch.setattr(planning, "lasting", lambda config, *args: replace(config, steps=1))
    config = TSMRConfig(block=None, batch_size=8, budget=10.0, auto=False, shares=(0.2, 0.5, 0.7), steps=None)
    for _ in range(2):  # the second time it is found, whatever time there is then
        report = apply_tsmr(student, teacher, rec, bin_file, config, cache=tmp_path).report
        assert report.config.shares == left
        assert set(report.shares) == {0.0, *left, 1.0}
        takes = 1e9


@pytest.mark.parametrize(("pause", "trained"), [(0.0, 6), (2.0, 3), (30.0, 1)])
def test_training_ends_with_the_time_where_the_machine_becomes_slower(
    rec: Path,
    bin_file: Path,
    student: nn.Module,
    teacher: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    pause: float,
    trained: int,
) -> None:
    now, run_epoch = [0.0], Trainer.run_epoch

    def slower(self: Trainer, *args: Any) -> Any:
        now[0] += pause
        return run_epoch(self, *args)

    monkeypatch.setattr(Trainer, "run_epoch", slower)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(
        planning, "lasting", lambda config, *args: replace(config, steps=1, stages=SIX, epochs=None)
    )
    config = TSMRConfig(block=None, batch_size=8, budget=0.15, auto=False, shares=(), lr=1e-3)
    report = apply_tsmr(student, teacher, rec, bin_file, config).report
    assert len(report.epochs) == trained
