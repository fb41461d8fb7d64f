"""What a plan says a block costs, against operations counted by hand, and which sites a budget takes."""

from __future__ import annotations

import pytest
import torch
from nets import Plain, build, images
from torch import nn

import reparam_kit as rk
from reparam_kit.planning import cost_ratio, plan

# A 3x3 convolution, 4 -> 6 channels, on 2 images of 5x5 without padding: 2 * 9 output positions, 216 weights.
CONV = nn.Conv2d(4, 6, 3)
INPUT = torch.randn(2, 4, 5, 5)
KERNEL = 6 * 4 * 9


@pytest.mark.parametrize(
    ("block", "norm", "extra"),
    [
        ("conv(k) + conv(1)", "scale", 2 * KERNEL),
        ("conv(k) + conv(1) + conv(1, k)", "scale", 4 * KERNEL),
        # 1x1 to 4 channels, then 3x3: each weight of the second meets the 4 inputs of the first
        ("conv(k) + conv(1) >> conv(k)", "none", KERNEL * 4 + 2 * KERNEL),
        # 1x1 to 6 channels, then one 3x3 filter for each of them
        ("conv(k) + conv(1) >> avg(k)", "scale", 6 * 9 * 4 + 2 * KERNEL),
        # 2x2 to 6 channels, then 2x2: 4 taps against 4 taps
        ("conv(k) + conv(2) >> conv(2)", "scale", 6 * 6 * 4 * 4 * 4 + 2 * KERNEL),
        # each input channel by itself to 2 channels of 9 taps, which the 1x1 mixes
        ("conv(k) + depthwise(k, width=2) >> conv(1)", "scale", 6 * 8 * 9 + 2 * KERNEL),
        ("conv(k) + conv(1)", "batch", 18 * (6 * 4 + 6)),
        ("conv(k) + conv(1) >> conv(k)", "batch", 18 * (4 * 4 + 4 + 6 * 4 * 9 + 6)),
    ],
)
def test_extra_macs(block: str, norm: str, extra: int) -> None:
    (item,) = plan(nn.Sequential(CONV), block, norm, example_inputs=INPUT)
    assert (item.site.macs, item.extra_macs) == (18 * KERNEL, extra)
    assert cost_ratio([item]) == 1 + extra / (18 * KERNEL)


def test_multiplying_out_does_not_grow_with_the_batch_and_branches_do() -> None:
    for norm, growth in (("scale", 1), ("batch", 4)):
        one, four = (plan(CONV, "dbb", norm, example_inputs=torch.randn(n, 4, 5, 5))[0] for n in (1, 4))
        assert four.extra_macs == growth * one.extra_macs


def test_what_comes_before_the_last_factor_runs_before_the_stride() -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2)
    (item,) = plan(conv, "conv(k) + conv(1) >> conv(k)", "batch", example_inputs=torch.randn(1, 4, 9, 9))
    assert item.extra_macs == 16 * (4 * (4 * 4 + 4) + 6 * 4 * 9 + 6)


def test_a_shared_layer_is_multiplied_out_at_each_call() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    once, twice = (plan(nn.Sequential(*[conv] * n), example_inputs=INPUT)[0] for n in (1, 2))
    assert (twice.site.calls, twice.extra_macs) == (2, 2 * once.extra_macs)


@pytest.mark.parametrize("budget", [1.01, 1.03, 1.07, 100])
def test_a_budget_takes_the_cheapest_sites(budget: float) -> None:
    net = build(Plain)
    everything = plan(net, example_inputs=images())
    chosen = plan(net, example_inputs=images(), budget=budget)
    assert cost_ratio(chosen) <= budget
    taken = [item.extra_macs for item in chosen if item.reason is None]
    left = [
        full.extra_macs
        for full, item in zip(everything, chosen, strict=True)
        if item.reason == f"does not fit into budget={budget:g}"
    ]
    assert len(taken) + len(left) == 6
    assert (not left) == (budget == 100)
    assert not taken or not left or max(taken) <= min(left)
    names = [item.site.name for item in chosen if item.reason is None]
    if names:
        student = rk.expand(net, example_inputs=images(), budget=budget)
        assert [module.site for module in student.modules() if hasattr(module, "site")] == names


def test_without_example_inputs_no_cost_is_claimed() -> None:
    plans = plan(build(Plain))
    assert cost_ratio(plans) is None
    assert {item.extra_macs for item in plans} == {None}
