"""Two modules: what is called equal, what is not, and that nothing of the user's is touched on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from nets import NETS, Plain, build, disturb, images, nudged
from torch import Tensor, fx, nn

from reparam_kit.surgery import expand, fold
from reparam_kit.verification import OutputError, verify


class Returns(nn.Module):
    """A layer, and then whatever is to be made of its output."""

    def __init__(self, make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.make = make

    def forward(self, x: Tensor) -> object:
        return self.make(self.conv(x))


@pytest.mark.parametrize("kind", NETS)
def test_an_untouched_fold_is_equal(kind: type[nn.Module]) -> None:
    model = build(kind)
    report = verify(model, fold(expand(model)), images())
    assert report.ok
    assert report.structure is not None
    assert report.structure.same_graph
    assert report.outputs


@pytest.mark.parametrize("norm", ["scale", "batch"])
def test_a_student_is_held_against_its_fold_and_is_no_deployed_model_itself(norm: str) -> None:
    model = build(Plain)
    student = disturb(expand(model, norm=norm))
    report = verify(student, fold(student), images())
    assert report.ok, str(report)
    assert report.structure is not None
    assert not report.structure.payloads
    assert not verify(model, student, images(), same_function=False).ok
    assert not verify(student, nudged(fold(student), 1e-3), images()).ok


@pytest.mark.parametrize("relative", [1e-5, 1e-3])
def test_slightly_other_weights_are_another_function(relative: float) -> None:
    model = build(Plain)
    other = nudged(model, relative)
    report = verify(model, other, images())
    assert not report.ok
    assert report.structure is not None
    assert report.structure.same_graph
    assert len(report.structure.payloads) == len(list(model.parameters()))
    assert verify(model, other, images(), same_function=False).ok


class Reordered(nn.Module):
    """A convolution that adds its channels up in another order, as another kernel or a fold may."""

    def __init__(self, plain: nn.Conv2d, order: Tensor) -> None:
        super().__init__()
        self.conv, self.order = plain, order

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x[:, self.order], self.conv.weight[:, self.order], self.conv.bias, padding=1)


@pytest.mark.parametrize(
    "tail", [[nn.Identity()], [nn.Flatten(), nn.Linear(32 * 25, 1)]], ids=["many", "one"]
)
def test_another_order_of_summation_is_the_same_function(tail: list[nn.Module]) -> None:
    """Whether the output has many numbers or one, whose error in ``a`` may be zero by chance."""
    for seed in range(15):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(32, 32, 3, padding=1) for _ in range(4)]
        a = nn.Sequential(*(Reordered(layer, torch.arange(32)) for layer in layers), *tail)
        b = nn.Sequential(*(Reordered(layer, torch.randperm(32)) for layer in layers), *tail)
        (error,) = verify(a, b, torch.randn(1, 32, 5, 5)).outputs
        assert error.ok, (seed, error)
        assert error.max_abs > 0


def test_the_tolerance_is_twice_the_error_of_a() -> None:
    model = build(Plain)
    x = images(16)
    (error,) = verify(model, model, x).outputs
    truth = deepcopy(model).eval().double()(x.double())
    own = (model.eval()(x) - truth).abs().max() / truth.abs().max()
    assert error.relative == pytest.approx(own.item())
    assert error.tolerance == pytest.approx(2 * max(own.item(), 4 * torch.finfo(torch.float32).eps))


def test_a_wrong_border_is_found() -> None:
    """A bias under zero padding, pushed through a chain: right everywhere but at the border."""
    a = nn.Conv2d(3, 4, 3, padding=1)
    b = nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate")
    b.load_state_dict(a.state_dict())
    report = verify(a, b, images())
    assert not report.ok
    assert report.outputs[0].relative > 1e-2


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda y: y, ["output"]),
        (lambda y: (y, [y.mean(), {"mask": y > 0}]), ["output[0]", "output[1][0]", "output[1][1]['mask']"]),
        (
            lambda y: {"box": y.flatten(1), "label": y.flatten(1).argmax(1)},
            ["output['box']", "output['label']"],
        ),
        (lambda y: (y[:0], y[0, 0, 0], None), ["output[0]", "output[1]"]),
    ],
    ids=["tensor", "nested", "integers", "empty"],
)
def test_outputs_of_every_kind(make: Callable[[Tensor], object], names: list[str]) -> None:
    model = Returns(make)
    report = verify(model, deepcopy(model), images())
    assert report.ok
    assert [output.name for output in report.outputs] == names
    assert not verify(model, nudged(model, 0.5), images()).ok


@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [
        (lambda y: y, lambda y: y[:, :4]),
        (lambda y: y, lambda y: (y, y)),
        (lambda y: (y, y), lambda y: y),
        (lambda y: y, lambda y: y * math.nan),
    ],
    ids=["shape", "one more", "one less", "nan"],
)
def test_outputs_that_do_not_compare(
    of_a: Callable[[Tensor], object], of_b: Callable[[Tensor], object]
) -> None:
    a, b = Returns(of_a), Returns(of_b)
    b.load_state_dict(a.state_dict())
    report = verify(a, b, images())
    assert not report.ok
    assert not report.outputs[-1].ok
    json.dumps(report.to_json(), allow_nan=False)


def test_all_zero_outputs_are_equal() -> None:
    report = verify(Returns(torch.zeros_like), Returns(torch.zeros_like), images())
    assert report.outputs == (OutputError("output", 0.0, 0.0, 1.0, report.outputs[0].tolerance),)


class Float32Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x + torch.ones(x.shape).mul(0.5)) @ torch.ones(17, 17)


def test_a_module_that_does_not_run_in_float64() -> None:
    model = Float32Inside()
    report = verify(model, deepcopy(model), images())
    assert report.ok
    assert "does not run in float64" in report.notes[0]
    assert not verify(model, nudged(model, 1e-4), images()).ok


def test_half_precision_is_judged_by_its_own_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).half()
    x = images().half()
    assert verify(model, deepcopy(model), x).ok
    (error,) = verify(model, nudged(model, 2e-2), x).outputs
    assert not error.ok
    assert 4e-3 <= error.tolerance < 1e-2


def test_several_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x[index] * 2

    assert verify(Sum(), Sum(), (images(), torch.tensor([1, 0]))).ok


def test_modules_and_inputs_are_left_as_they_were() -> None:
    model = build(Plain).train()
    model.stem.eval()
    calls: list[bool] = []
    model.register_forward_hook(lambda module, *_: calls.append(module.training))
    inplace = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1)).train()
    x = images()
    for module in (model, inplace):
        modes = [part.training for part in module.modules()]
        state, seen = deepcopy(module.state_dict()), x.clone()
        assert verify(module, deepcopy(module), x).ok
        assert [part.training for part in module.modules()] == modes
        assert all(value.equal(state[name]) for name, value in module.state_dict().items())
        assert x.equal(seen)
    assert calls
    assert not any(calls)


def named_twice() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))


class Other(nn.Sequential):
    pass


def _stride(model: nn.Module) -> nn.Module:
    model[0].stride = (2, 2)
    return model


def _wider(model: nn.Module) -> nn.Module:
    model[2] = nn.Conv2d(4, 6, 1)
    return model


def _activation(model: nn.Module) -> nn.Module:
    model[1] = nn.SiLU()
    return model


def _buffer(model: nn.Module) -> nn.Module:
    model.register_buffer("mean", torch.zeros(3))
    return model


def _order(model: nn.Module) -> nn.Module:
    model._modules = {name: model._modules[name] for name in ("0", "2", "1")}
    return model


@pytest.mark.parametrize(
    ("edit", "change"),
    [
        (lambda m: Other(*m), "class changed: torch.nn.modules.container.Sequential -> test_verify.Other"),
        (
            _stride,
            "modules[0] changed: Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1)) -> "
            "Conv2d(3, 4, kernel_size=(3, 3), stride=(2, 2))",
        ),
        (_wider, "state_dict[2.weight] changed: float32[4, 4, 1, 1] -> float32[6, 4, 1, 1]"),
        (lambda m: m.double(), "state_dict[0.weight] changed: float32[4, 3, 3, 3] -> float64[4, 3, 3, 3]"),
        (_activation, "modules[1] changed: ReLU() -> SiLU()"),
        (_buffer, "state_dict[mean] added: float32[3]"),
        (lambda m: m[:2], "state_dict[2.weight] removed: float32[4, 4, 1, 1]"),
        (_order, "modules reordered: 0, 1, 2 -> 0, 2, 1"),
        (fx.symbolic_trace, "class changed"),
    ],
)
def test_structure_of_modules(edit: Callable[[nn.Module], nn.Module], change: str) -> None:
    model = named_twice()
    report = verify(model, edit(deepcopy(model)))
    assert not report.ok
    assert report.structure is not None
    assert any(change.replace("test_verify", __name__) in str(found) for found in report.structure.changes)
    assert not verify(model, edit(deepcopy(model)), same_function=False).ok


def test_code_of_a_graph_module_is_structure() -> None:
    first, second = (fx.symbolic_trace(Returns(make)) for make in (lambda y: y + 1, lambda y: y - 1))
    report = verify(first, second)
    assert report.structure is not None
    assert [change.where for change in report.structure.changes] == ["code"]
    assert verify(first, deepcopy(first)).ok


def test_modules_without_inputs_are_compared_in_structure_only() -> None:
    report = verify(build(Plain), disturb(build(Plain)))
    assert report.ok
    assert report.outputs == ()
    assert report.notes == ("outputs not compared: give example_inputs to run the modules on",)
