"""Between the deployed weights and the trained ones: both ends exactly, and the best of what lies between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recipes.faces import Figure, Judge, Verdict
from recipes.tsmr import TSMRConfig, apply_tsmr
from recipes.tsmr.averaging import between, choose
from recipes.tsmr.training.history import History

CONFIG = TSMRConfig(block=None, batch_size=8, lr=3e-3)


def trained(student: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: tensor + torch.rand(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor + 7
        for name, tensor in student.state_dict().items()
    }


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_ends_are_exact_and_the_middle_is_the_mean(student: nn.Module, share: float) -> None:
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    after = trained(student)
    found = between(student, after, share).state_dict()
    for name, tensor in found.items():
        if share in (0, 1) or not tensor.is_floating_point():
            assert torch.equal(tensor, after[name] if share else before[name])
        else:
            torch.testing.assert_close(tensor, before[name] * 0.75 + after[name] * 0.25)
        assert torch.equal(student.state_dict()[name], before[name])


class Ranks(Judge):
    """Says of a net what its first bias is told to be worth."""

    def __init__(self, worth: dict[float, float]) -> None:
        self.worth = worth

    def judge(self, model: Any, *args: Any) -> Verdict:
        share = round(float(next(model.parameters()).detach().flatten()[0]), 3)
        return Verdict(figures=(Figure("worth", self.worth[share]),), decides="worth")


@given(worth=st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_the_best_share_is_taken_and_of_equals_the_least(worth: list[int]) -> None:
    shares = (0.0, 0.3, 0.5, 0.7, 1.0)
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    judge = Ranks(dict(zip(shares, map(float, worth), strict=True)))
    weights = {"weight": torch.ones(1, 1), "bias": net.bias.detach()}
    history = History(None, (), (judge.judge(net),), net.state_dict())
    epoch = SimpleNamespace(epoch=1, validation=(judge.judge(between(net, weights, 1.0)),))
    history.add(cast("Any", epoch), weights)
    given = SimpleNamespace(
        model=net, judges=(judge,), config=CONFIG, judge=lambda model: (judge.judge(model),)
    )
    chosen = choose(cast("Any", given), history)
    assert chosen.share == shares[worth.index(max(worth))]
    assert chosen.verdicts[0].deciding.value == max(worth)
    assert {share: verdict.deciding.value for share, verdict in chosen.shares.items()} == judge.worth


def test_an_epoch_that_is_worse_than_the_deployed_model_may_lead_to_a_better_one(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path
) -> None:
    """The judge is told what to find: every epoch worse than the student, half of the way better."""
    start = next(student.parameters()).detach().clone()

    def worth(model: nn.Module) -> float:
        first = next(model.parameters()).detach()
        if first.shape != start.shape:  # the teacher
            return 3.0
        largest.append(float((first - start).abs().max()))
        return 1.0 if not largest[-1] else 2.0 if largest[-1] < max(largest) * 0.6 else 0.0

    class Told(Judge):
        def judge(self, model: Any, *args: Any) -> Verdict:
            return Verdict(figures=(Figure("told", worth(model)),), decides="told")

    largest: list[float] = []
    config = replace(CONFIG, shares=(0.5,))
    result = apply_tsmr(student, teacher, rec, Told(), config, checkpoint=tmp_path / "run.pt")
    report = result.report
    assert (report.share, report.after[0].deciding.value) == (0.5, 2.0)
    assert report.kept == 1
    assert report.comparisons[0].deciding.value == 1.0
    assert list(report.to_json()["shares"]) == ["0", "0.5", "1"]
    again = apply_tsmr(student, teacher, rec, Told(), config, checkpoint=tmp_path / "run.pt")
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)


def test_without_a_judge_it_is_the_last_epoch(rec: Path, student: nn.Module, teacher: nn.Module) -> None:
    report = apply_tsmr(student, teacher, rec, config=CONFIG).report
    assert (report.share, report.shares, report.way) == (1.0, {}, "")


class Weighing(Judge):
    """The further from the start the better, but another figure falls beyond half of the way."""

    def judge(self, model: Any, *args: Any) -> Verdict:
        share = float(next(model.parameters()).detach().flatten()[0])
        other = np.full(50, 0.9 if share > 0.6 else 1.0)
        return Verdict.of_means({"reach": np.full(50, share), "grip": other}, "reach")


@pytest.mark.parametrize(("judges", "named"), [(1, ("grip",)), (2, ("grip (judge 1)", "grip (judge 2)"))])
def test_a_share_by_which_another_figure_gets_worse_is_not_taken(judges: int, named: tuple[str, ...]) -> None:
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    judge = Weighing()
    weights = {"weight": torch.ones(1, 1), "bias": net.bias.detach()}
    history = History(None, (), (judge.judge(net),) * judges, net.state_dict())
    history.add(
        cast("Any", SimpleNamespace(epoch=1, validation=(judge.judge(between(net, weights, 1.0)),) * judges)),
        weights,
    )
    given = SimpleNamespace(
        model=net, judges=(judge,) * judges, config=CONFIG, judge=lambda model: (judge.judge(model),) * judges
    )
    chosen = choose(cast("Any", given), history)
    assert chosen.share == 0.5
    assert chosen.held_back == {0.7: named, 1.0: named}
    assert chosen.comparisons[0].deciding.value == pytest.approx(0.5)
