"""Functions that a model holds lead to the copy, not back to the model that was copied."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from nets import build, disturb
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import reparam_kit as rk

X = torch.randn(2, 3, 9, 9, dtype=torch.float64)


class Net(nn.Module):
    """Two convolutions, the second behind what ``way`` makes of the first."""

    def __init__(self, way: Callable[[Any], object]) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh())
        self.second = nn.Conv2d(4, 4, 1)
        self.kept: dict[str, Tensor] = {}
        self.step: Any = None
        way(self)

    def forward(self, x: Tensor) -> Tensor:
        y = (self.step or self.first)(x)
        return self.second(self.kept.pop("y") if self.kept else y)


def keeps(net: Net, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        net.kept[name] = output

    return hook


def hook_over_a_dict(net: Net) -> None:
    kept = net.kept
    net.first.register_forward_hook(lambda module, args, output: kept.__setitem__("y", output))


def wrapped(net: Net) -> None:
    forward = net.first.forward

    @wraps(forward)
    def twice(x: Tensor) -> Tensor:
        return 2 * forward(x)

    net.first.forward = twice


def recursive(net: Net) -> None:
    def again(x: Tensor, times: int = 2) -> Tensor:
        return again(x, times - 1) if times else net.first(x)

    net.step = again


def listed(net: Net) -> None:
    layers = list(net.first)
    net.step = lambda x: layers[1](layers[0](x))


def sharing(net: Net) -> None:
    """Two functions, which share a variable that is not bound before the first has run."""

    def set_it(x: Tensor) -> Tensor:
        nonlocal layer
        layer = net.first
        return x

    def use_it(x: Tensor) -> Tensor:
        return layer(set_it(x))

    layer = net.first
    net.step = use_it


def of_an_object(net: Net) -> None:
    class Steps:
        run = staticmethod(lambda x: x)

    net.steps = Steps()
    net.steps.run = lambda x: net.first(x)
    net.step = lambda x: net.steps.run(x)


WAYS: dict[str, Callable[[Any], object]] = {
    "a hook over the net": lambda net: net.first.register_forward_hook(keeps(net, "y")),
    "a hook over its dict": hook_over_a_dict,
    "a hook with a default": lambda net: net.first.register_forward_hook(
        lambda module, args, output, own=net: own.kept.__setitem__("y", output)
    ),
    "a hook with a keyword": lambda net: net.first.register_forward_hook(
        lambda module, args, output, *, own=net: own.kept.__setitem__("y", output)
    ),
    "a forward that wraps another": wrapped,
    "a method": lambda net: setattr(
        net.first, "forward", MethodType(lambda own, x: own[1](own[0](x)), net.first)
    ),
    "a method over the net": lambda net: setattr(
        net, "step", MethodType(lambda own, x: net.first(x) + own.first(x), net)
    ),
    "a partial": lambda net: setattr(net, "step", partial(lambda own, x: net.first(x), net)),
    "a function that calls itself": recursive,
    "a list of layers": listed,
    "a shared variable": sharing,
    "functions in a tuple": lambda net: setattr(net, "step", (lambda x: net.first(x),)[0]),
    "an attribute of an object": of_an_object,
    "a weak reference": lambda net: setattr(
        net, "step", partial(lambda ref, x: ref()(x), weakref.ref(net.first))
    ),
}


def leads_back(net: nn.Module, copied: nn.Module) -> bool:
    """Whether ``copied`` still runs what ``net`` holds, or has a parameter that its output does not depend on."""
    parameters = list(copied.parameters())
    y = copied(X)
    grads = torch.autograd.grad(y.square().sum(), parameters, allow_unused=True)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    return any(grad is None for grad in grads) or not torch.equal(copied(X), y)


@pytest.mark.parametrize("norm", ["scale", "batch", "restored"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_student_and_its_fold_stand_alone(way: Callable[[Any], object], norm: str) -> None:
    net = build(lambda: Net(way)).double().eval()
    expected = net(X)
    student = rk.restore_bn(net, [X]) if norm == "restored" else rk.expand(net, "dbb", norm, example_inputs=X)
    torch.testing.assert_close(student.eval()(X), expected)
    assert not leads_back(net, student)
    disturb(student).eval()
    expected = student(X)
    folded = rk.fold(student).eval()
    torch.testing.assert_close(folded(X), expected, rtol=1e-12, atol=1e-12)
    assert not leads_back(student, folded)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_baked_net_stands_alone(way: Callable[[Any], object]) -> None:
    net = build(lambda: Net(way)).double().eval()
    parametrizations.weight_norm(net.first[0])
    expected = net(X)
    baked = rk.bake(net)
    assert torch.equal(baked(X), expected)
    assert not leads_back(net, baked)


@pytest.mark.filterwarnings("ignore")
def test_verify_and_export_run_a_copy_that_stands_alone(tmp_path: Path) -> None:
    """In float64 and eval mode, which those of the original are not."""
    net = build(lambda: Net(wrapped))
    net.first.insert(1, nn.BatchNorm2d(4))
    net.train()
    student = disturb(rk.expand(net))
    folded = rk.fold(student)
    x = X.float()
    assert rk.verify(student, folded, x).ok
    rk.export_onnx(folded, tmp_path / "net.onnx", example_inputs=x)
    assert rk.verify(tmp_path / "net.onnx", folded, x).ok
    assert all(module.training for module in folded.modules())


def test_what_is_the_users_stays_the_same_object() -> None:
    seen: list[Tensor] = []
    count = 0

    def hook(module: nn.Module, args: object, output: Tensor) -> None:
        nonlocal count
        count += 1
        seen.append(output)

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    net[1].register_forward_hook(hook)
    student = rk.expand(net)
    assert list(student[1]._forward_hooks.values()) == [hook]
    student(X), rk.fold(student)(X)
    assert (count, len(seen)) == (2, 2)


@pytest.mark.parametrize("norm", ["scale", "batch"])
def test_what_is_made_in_inference_mode_trains(norm: str) -> None:
    with torch.inference_mode():
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
        student = rk.expand(net, "dbb", norm, calibration=[X])
        folded = rk.fold(student)
    for model in (student, folded):
        model.train()(X).square().sum().backward()
        torch.optim.SGD(model.parameters(), 0.1).step()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torchscript_within_a_student_trains() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), torch.jit.script(nn.Conv2d(4, 4, 3)))
    for model in (rk.expand(net), rk.fold(rk.expand(net))):
        assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())
        torch.optim.SGD(model.parameters(), 0.1)
