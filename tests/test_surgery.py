"""Expand and fold on whole nets: the same function, the same module tree, in every mode."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from nets import NETS, Dynamic, Perceptron, Plain, Residual, Shared, build, disturb, images
from torch import nn

import reparam_kit as rk
from reparam_kit.algebra import NORMS, PRESETS, Expanded
from reparam_kit.planning import plan
from reparam_kit.restoration import Restored

CASES = [(net, norm) for net in NETS for norm in NORMS if (net, norm) != (Residual, "batch")]


def expanded(net: nn.Module) -> list[str]:
    return [module.site for module in net.modules() if isinstance(module, Expanded)]


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_untrained_fold_returns_every_bit(kind: type[nn.Module], norm: str, mode: bool) -> None:
    net = build(kind).train(mode)
    before = copy.deepcopy(net.state_dict())
    student = rk.expand(net, "dbb", norm, include=["*"], calibration=[images()])
    folded = rk.fold(student)
    assert type(folded) is type(net)
    assert list(folded.state_dict()) == list(before)
    assert all(torch.equal(folded.state_dict()[name], value) for name, value in before.items())
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in net.named_modules()]
    assert {m.training for m in student.modules()} == {m.training for m in folded.modules()} == {mode}


@pytest.mark.parametrize("norm", NORMS)
def test_untrained_fold_returns_the_sign_of_every_zero(norm: str) -> None:
    """Masks make zeros of both signs."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4))
    for tensor in (*net.parameters(), *net.buffers()):
        if tensor.is_floating_point() and tensor is not net[2].running_var:
            tensor.data = torch.randn_like(tensor) * 0
    folded = rk.fold(rk.expand(net, "dbb", norm))
    for tensor, returned in zip(net.state_dict().values(), folded.state_dict().values(), strict=True):
        assert torch.equal(torch.signbit(tensor), torch.signbit(returned))


@pytest.mark.parametrize("block", ["dbb", "mobileone", "ecb", "conv(1) >> conv(2) >> avg(2)"])
@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_trained_fold_is_exact_in_float64(kind: type[nn.Module], norm: str, block: str) -> None:
    student = disturb(rk.expand(build(kind).double(), block, norm, include=["*"])).train()
    folded = rk.fold(student).eval()
    x = images().double()
    with torch.no_grad():
        expected = student.eval()(x)
        assert (folded(x) - expected).abs().max() < 1e-12 * expected.abs().max()


@pytest.mark.parametrize(("kind", "norm"), CASES)
def test_float32_fold_is_as_near_to_the_truth_as_the_unfolded_net(kind: type[nn.Module], norm: str) -> None:
    student = disturb(rk.expand(build(kind), "dbb", norm, include=["*"])).eval()
    folded = rk.fold(student)
    x = images(8)
    with torch.no_grad():
        truth = copy.deepcopy(student).double()(x.double())
        unfolded_error = (student(x) - truth).norm()
        assert (folded(x) - truth).norm() <= 2 * unfolded_error + 1e-7 * truth.norm()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", PRESETS)
def test_every_preset_starts_from_the_same_function(block: str, norm: str) -> None:
    net = build(Plain)
    student = rk.expand(net, block, norm)
    x = images()
    for training in (True, False):
        with torch.no_grad():
            expected = copy.deepcopy(net).train(training)(x)
            got = copy.deepcopy(student).train(training)(x)
        assert torch.equal(got, expected)


@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_learns(norm: str) -> None:
    student = disturb(rk.expand(build(Plain), "dbb", norm)).train()
    student(images(4)).square().sum().backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []


def test_a_shared_convolution_is_expanded_once_wherever_it_is_referred_to() -> None:
    student = rk.expand(build(Shared))
    assert sorted(expanded(student)) == ["first", "twice"]
    assert student.alias is student.first
    assert student.steps[0] is student.first
    assert student.steps[1] is student.twice
    folded = rk.fold(student)
    assert folded.steps[0] is folded.alias is folded.first
    assert type(folded.first) is nn.Conv2d


def test_a_shift_without_a_bias_moves_into_the_batch_norm() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).double()
    folded = rk.fold(wrapped := nn.Sequential(disturb(rk.expand(net, "dbb", "batch"))))
    x = images().double()
    torch.testing.assert_close(folded.eval()(x), wrapped.eval()(x), rtol=1e-12, atol=1e-12)
    assert list(folded.state_dict()) == [f"0.{name}" for name in net.state_dict()]


def test_hooks_and_attributes_stay() -> None:
    net = build(Plain)
    seen = []
    net.even.register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    net.even.note = "deployed"
    student = rk.expand(net)
    student(images())
    assert (student.even.note, student.even.kernel_size) == ("deployed", (4, 4))
    folded = rk.fold(student)
    folded(images())
    assert folded.even.note == "deployed"
    assert seen == ["Conv2d", "Conv2d"]


def test_expanded_weight_is_the_sum() -> None:
    student = disturb(rk.expand(build(Plain)))
    folded = rk.fold(student)
    torch.testing.assert_close(student.point.weight.clone(), folded.point.weight)


@pytest.mark.parametrize("norm", NORMS)
def test_an_expanded_model_copies_pickles_and_reloads(norm: str) -> None:
    student = disturb(rk.expand(build(Plain), "dbb", norm)).eval()
    x = images()
    again = rk.expand(build(Plain), "dbb", norm).eval()
    again.load_state_dict(student.state_dict())
    for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student)), again):
        assert torch.equal(other(x), student(x))


def test_folding_in_the_middle_of_training_leaves_the_student_alone() -> None:
    student = disturb(rk.expand(build(Plain)))
    before = copy.deepcopy(student.state_dict())
    rk.fold(student)
    assert all(torch.equal(student.state_dict()[name], value) for name, value in before.items())


def test_a_folded_model_expands_again() -> None:
    folded = rk.fold(disturb(rk.expand(build(Plain))))
    assert expanded(rk.expand(folded)) == expanded(rk.expand(build(Plain)))


@pytest.mark.parametrize("norm", NORMS)
def test_one_module_at_a_time_as_timm_fuses(norm: str) -> None:
    """The BatchNorm behind a convolution is out of its reach, so that a shift becomes a bias."""
    student = disturb(rk.expand(build(Plain).double(), "dbb", norm))
    folded = rk.fold(student)
    for name in expanded(student):
        alone, plain = student.get_submodule(name).fuse(), folded.get_submodule(name)
        assert type(alone) is nn.Conv2d
        assert torch.equal(alone.weight, plain.weight)
        if plain.bias is not None:
            assert torch.equal(alone.bias, plain.bias)
        else:
            assert (alone.bias is not None) == (norm == "batch")
        student.set_submodule(name, alone)
    x = images().double()
    torch.testing.assert_close(student.eval()(x), folded.eval()(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [Expanded, Restored])
def test_an_instance_that_is_still_to_be_filled_has_no_attributes_of_its_layer(kind: type[nn.Module]) -> None:
    blank = kind.__new__(kind)
    assert not hasattr(blank, "kernel_size")


def test_a_single_convolution_is_a_model() -> None:
    conv = nn.Conv2d(3, 4, 3)
    student = rk.expand(conv)
    assert isinstance(student, Expanded)
    assert torch.equal(rk.fold(student).weight, conv.weight)


def test_half_precision_is_rounded_once() -> None:
    student = disturb(rk.expand(build(Plain).bfloat16()))
    site = student.point
    exact = site.multiply_out(torch.float64).weight
    assert torch.equal(rk.fold(student).point.weight, exact.bfloat16())


def test_autocast_does_not_touch_the_sum() -> None:
    student = disturb(rk.expand(build(Plain)))
    exact = student.even.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(student.even.weight, exact)


def test_calibration_brings_branches_to_the_spread_of_the_deployed_output() -> None:
    net = build(Plain)
    x = 5 + images(16)
    student = rk.expand(net, calibration=[x])
    stem = student.stem.conv
    deployed = nn.functional.conv2d(x, stem.base.weight, stride=2, padding=1).std((0, 2, 3))
    kernel = nn.functional.pad(stem.branches[0].product().weight, (1, 1, 1, 1))
    own = nn.functional.conv2d(x, kernel, stride=2, padding=1).std((0, 2, 3))
    torch.testing.assert_close(own, deployed, rtol=1e-3, atol=0)


def test_calibration_sets_the_running_statistics_of_branch_norms() -> None:
    x = 5 + images(16)
    student = rk.expand(build(Plain), "dbb", "batch", calibration=[x])
    branch = student.stem.conv.branches[0]
    out = nn.functional.conv2d(x, branch.factor0, stride=2)
    torch.testing.assert_close(branch.norms[0].running_mean, out.mean((0, 2, 3)), rtol=0.2, atol=0.1)
    assert branch.norms[0].momentum == 0.1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"include": ["stem.*"]}, ["stem.conv"]),
        ({"include": ["*.conv"], "exclude": ["groups.*"]}, ["stem.conv", "depthwise.conv"]),
        ({"block": "conv(k) + identity"}, ["groups.conv", "depthwise.conv", "flat"]),
    ],
)
def test_which_sites_are_expanded(options: dict[str, object], names: list[str]) -> None:
    assert expanded(rk.expand(build(Plain), **options)) == names


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"include": ["layer9.*"]}, rk.InputError, "include='layer9.\\*' matches no layer"),
        ({"exclude": ["stm"]}, rk.InputError, "exclude='stm' matches no layer"),
        ({"norm": "layer"}, rk.InputError, "there is no norm 'layer' .*: known names: scale, batch, none"),
        ({"block": "ddb"}, rk.ExpressionError, "did you mean 'dbb'"),
        ({"block": "conv(k) + conv(9)"}, rk.NothingToDoError, "spans 9x9 taps"),
        ({"calibration": []}, rk.InputError, "no batch"),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rk.expand(build(Plain), **options)


def test_nothing_to_expand_and_nothing_to_fold() -> None:
    with pytest.raises(rk.NothingToDoError, match="has no convolution"):
        rk.expand(nn.ReLU())
    with pytest.raises(rk.NothingToDoError, match=r"none of the 1 layers.*where include names it"):
        rk.expand(nn.Linear(2, 2))
    with pytest.raises(rk.NothingToDoError, match="expand it first"):
        rk.fold(build(Plain))
    with pytest.raises(rk.NothingToDoError, match="6 x it is expanded already"):
        rk.expand(rk.expand(build(Plain)))


class Own(nn.Conv2d):
    """A convolution with a forward of its own, as timm's "same" padding has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


@pytest.mark.parametrize(
    ("net", "norm", "reason"),
    [
        (Residual, "batch", "neither a bias nor a BatchNorm of its own"),
        (lambda: nn.Sequential(Own(3, 4, 3)), "batch", "a forward of its own"),
    ],
)
def test_what_branch_norms_cannot_follow_is_refused(net: type[nn.Module], norm: str, reason: str) -> None:
    (item,) = plan(net(), norm=norm)
    assert reason in (item.reason or "")


def test_a_forward_of_its_own_is_no_matter_for_scale() -> None:
    student = disturb(rk.expand(nn.Sequential(Own(3, 4, 3)).double()))
    x = images().double()
    torch.testing.assert_close(rk.fold(student)(x), student(x), rtol=1e-13, atol=1e-13)


def test_linear_layers_are_expanded_where_they_are_named() -> None:
    net = build(Perceptron)
    assert expanded(rk.expand(net)) == ["conv"]
    assert expanded(rk.expand(net, include=["h*"])) == ["hidden", "head"]
    assert [item.reason for item in plan(net) if item.site.name == "mix"] == [
        "linear layer: expanded where include names it"
    ]


def test_a_preset_may_bring_its_norm() -> None:
    student = rk.expand(build(Plain), "qarepvgg")
    assert {module.norm for module in student.modules() if isinstance(module, Expanded)} == {"none"}
    assert student.even.norm == "none"
    assert rk.expand(build(Plain), "qarepvgg", "scale").even.norm == "scale"
    assert rk.expand(build(Plain), "repvgg").even.norm == "scale"


def test_untraceable_models_expand() -> None:
    assert expanded(rk.expand(build(Dynamic))) == ["conv"]
