from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from recipes.faces import FaceRecords
from recipes.tsmr import Ablation, Stage, TSMRConfig, compare
from recipes.tsmr.ablation import BRANCHES, DISTILLATION, FINE_TUNING, TSMR, arms
from recipes.tsmr.results import Spread
from recipes.tsmr.targets.holdout import hold_out
from recipes.tsmr.training.trainer import DivergedError
from reparam_kit import InputError

CONFIG = TSMRConfig(
    stages=(Stage(epochs=2, cosine=1.0), Stage(epochs=1, cosine=1.0, adversarial=0.1)), batch_size=8, lr=1e-3
)


def test_the_arms_differ_in_one_thing_each_and_see_as_many_images() -> None:
    made = arms(CONFIG)
    assert list(made) == [FINE_TUNING, DISTILLATION, BRANCHES, TSMR]
    assert {arm.total_epochs for arm in made.values()} == {3}
    assert made[TSMR] == CONFIG
    assert made[BRANCHES] == replace(CONFIG, stages=(Stage(epochs=3, cosine=1.0),))
    assert made[DISTILLATION] == replace(made[BRANCHES], block=None)
    assert made[FINE_TUNING].stages == (Stage(epochs=3, margin=1.0),)
    assert made[FINE_TUNING].block is None


def test_of_a_classifier_the_labels_are_what_it_is_tuned_on() -> None:
    made = arms(TSMRConfig(task="logits", epochs=2, batch_size=8))
    assert made[FINE_TUNING].stages == (Stage(epochs=2, labels=1.0),)
    assert made[DISTILLATION].stages == made[BRANCHES].stages == (Stage(epochs=2, kl=1.0, labels=1.0),)


def test_people_held_out_are_not_trained_on(rec: Path) -> None:
    """Of 6 people with 4 images each, one is not enough to make pairs: 2 are held out."""
    records = FaceRecords(rec)
    part, pairs = hold_out(records)
    assert len(part) == 16  # type: ignore[arg-type]
    assert sorted({part[index][1] for index in range(16)}) == [0, 1, 2, 3]
    assert len(pairs) == 24
    assert pairs.same.mean() == 0.5
    shown = [pairs.images[index][0].numpy().tobytes() for index in range(48)]
    trained = {part[index][0].numpy().tobytes() for index in range(16)}
    assert not set(shown) & trained
    _, same_pairs = hold_out(records)
    assert [same_pairs.images[index][0].numpy().tobytes() for index in range(48)] == shown


class Few(Dataset[tuple[Tensor, int, int]]):
    def __init__(self, labels: list[int]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return torch.full((3, 4, 4), index, dtype=torch.uint8), self.labels[index], index


@pytest.mark.parametrize(
    ("labels", "says"), [([0, 1, -1] * 10, "all labelled"), (list(range(30)), "make 0 genuine pairs")]
)
def test_a_rate_cannot_be_chosen_without_people(labels: list[int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        hold_out(Few(labels))


def test_every_arm_gets_its_rate_and_its_seeds(
    rec: Path,
    bin_file: Path,
    student: nn.Module,
    teacher: nn.Module,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    ablation = Ablation((0, 1), (1e-3, 3e-3))
    rows = compare(student, teacher, rec, bin_file, CONFIG, tmp_path, ablation=ablation, progress=True)
    said = [line[len("2026-01-01 00:00:00 ") :] for line in capfd.readouterr().err.splitlines()]
    labels = [
        re.match(r"run (\d+) of 16, (.+), lr \S+, (to choose the rate|seed [01]): ", line) for line in said
    ]
    assert all(labels), said
    runs = [
        label and label.groups()
        for label, line in zip(labels, said, strict=True)
        if " images/s, " in line and ": epoch 3/3" in line
    ]
    assert [int(run[0]) for run in runs if run] == list(range(1, 17))
    assert [run[1] for run in runs[::4] if run] == [row.name for row in rows]
    assert sum(": accuracy " in line for line in said) == 16
    assert [row.name for row in rows] == [FINE_TUNING, DISTILLATION, BRANCHES, TSMR]
    for row in rows:
        assert row.lr in row.rates
        assert row.rates[row.lr] == max(rate for rate in row.rates.values() if rate is not None)
        assert len(row.verdicts) == 2
        assert row.images == 3 * 24
        accuracies = [verdict["accuracy"].value for verdict in row.verdicts]
        assert row.deciding == Spread.of(accuracies)
    assert len(list(tmp_path.glob("teacher-*.npy"))) == 1  # the people held out have no table of their own
    written = json.loads(json.dumps([row.to_json() for row in rows]))
    assert written[0]["spreads"]["accuracy"]["mean"] == pytest.approx(rows[0].deciding.mean)
    seen = [point.stat().st_mtime_ns for point in sorted(tmp_path.glob("*.pt"))]
    again = compare(
        student, teacher, rec, bin_file, CONFIG, tmp_path, ablation=Ablation((0, 1), (1e-3, 3e-3))
    )
    assert [row.deciding for row in again] == [row.deciding for row in rows]
    assert [point.stat().st_mtime_ns for point in sorted(tmp_path.glob("*.pt"))] == seen


@pytest.mark.parametrize(("length", "images"), [({"images": 20}, 3 * 16), ({"steps": 4}, 3 * 4 * 8)])
def test_an_arm_says_how_many_images_it_was_shown(
    rec: Path,
    bin_file: Path,
    student: nn.Module,
    teacher: nn.Module,
    tmp_path: Path,
    length: Any,
    images: int,
) -> None:
    ablation = Ablation((0,), (1e-3,))
    rows = compare(student, teacher, rec, bin_file, replace(CONFIG, **length), tmp_path, ablation=ablation)
    assert {row.images for row in rows} == {images}


def test_a_spread_is_mean_and_deviation() -> None:
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.0)
    assert Spread.of([4.0]) == Spread(4.0, 0.0)


def test_a_rate_that_diverges_is_not_chosen(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path
) -> None:
    config = replace(CONFIG, warmup=0.0, clip=1e9)
    rows = compare(student, teacher, rec, bin_file, config, tmp_path, ablation=Ablation((0,), (1e30, 1e-3)))
    for row in rows:
        assert row.lr == 1e-3
        assert row.rates[1e30] is None
    with pytest.raises(DivergedError, match="fine-tuning diverges at each of the learning rates"):
        compare(student, teacher, rec, bin_file, config, tmp_path, ablation=Ablation((0,), (1e30,)))
