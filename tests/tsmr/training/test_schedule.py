from __future__ import annotations

import pytest
import torch
from torch import nn

import reparam_kit as rk
from recipes.tsmr.training.schedule import RunningAverage, decay_groups, schedule


def test_only_kernels_decay(student: nn.Module) -> None:
    expanded = rk.expand(student, "dbb")
    names = {parameter: name for name, parameter in expanded.named_parameters()}
    kernels, vectors = (
        {names[parameter] for parameter in group["params"]}
        for group in decay_groups(expanded.parameters(), weight_decay=0.1)
    )
    assert {"stem.base.weight", "depthwise.base.weight", "mix.base.weight", "head.weight"} <= kernels
    assert {"norm.weight", "norm.bias", "act.weight", "depthwise.base.bias", "head.bias"} <= vectors
    scales = {name for name in names.values() if name.endswith(".scale")}
    assert scales
    assert scales <= vectors
    assert kernels | vectors == set(names.values())


def test_a_slope_shaped_for_broadcasting_does_not_decay() -> None:
    slope = nn.Parameter(torch.full((8, 1, 1), 0.25))
    kernels, vectors = decay_groups([slope], weight_decay=0.1)
    assert (kernels["params"], vectors["params"], vectors["weight_decay"]) == ([], [slope], 0)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_the_rate_rises_to_its_peak_and_falls_towards_zero(warmup: float) -> None:
    factors = [schedule(step, 200, warmup) for step in range(1, 201)]
    peak = factors.index(max(factors))
    assert peak == max(0, round(200 * warmup) - 1)
    assert factors[peak] == pytest.approx(1, abs=1e-4)
    assert factors == sorted(factors[:peak]) + sorted(factors[peak:], reverse=True)
    assert 0 < factors[-1] < 1e-3


def test_the_running_average_starts_with_the_student_and_follows_it_slower_and_slower() -> None:
    student = nn.Linear(1, 1, bias=False)
    average = RunningAverage(student, 0.5)
    expected = None
    for count, value in enumerate([1.0, 3.0, -2.0, 4.0]):
        with torch.no_grad():
            student.weight.fill_(value)
        average.update_parameters(student)
        decay = min(0.5, (1 + count) / (10 + count))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_the_running_average_has_the_statistics_of_the_student() -> None:
    student = nn.BatchNorm1d(2)
    average = RunningAverage(student, 0.5)
    for _ in range(2):
        student(torch.randn(4, 2))
        average.update_parameters(student)
        assert all(map(torch.equal, average.module.buffers(), student.buffers()))
    assert average.n_averaged == 2
