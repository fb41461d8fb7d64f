"""Kernels composed together: equal to those composed alone by autograd, and never those of other parameters."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from nets import disturb
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.profiler import ProfilerActivity, profile

import reparam_kit as rk
from reparam_kit.algebra import FACTORS, NORMS, PRESETS, Expanded, expanded
from reparam_kit.algebra.composition import compose
from reparam_kit.algebra.factors import Conv, Fixed
from reparam_kit.algebra.passes import composed

X = torch.randn(2, 4, 7, 7, dtype=torch.float64)


class Alike(nn.Module):
    """Layers of equal form, and of other forms between them; one is called twice, one only if asked."""

    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(
                nn.Conv2d(4, 4, 3, padding=1),
                nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
                nn.Conv2d(4, 6, 1),
                nn.Conv2d(6, 4, (1, 3), padding=(0, 1), groups=2, stride=1),
                nn.ReLU(),
            )
            for _ in range(depth)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.twice = nn.Conv2d(4, 4, 5, padding=2)
        self.asked = nn.Conv2d(4, 4, 5, padding=2)

    def forward(self, x: Tensor, ask: bool = True) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        x = self.twice(self.twice(x))
        return self.asked(x) if ask else x


def student(block: str = "dbb", norm: str | None = None, depth: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return disturb(rk.expand(Alike(depth).double(), block, norm))


def layers(model: nn.Module) -> list[Expanded]:
    return [module for module in model.modules() if isinstance(module, Expanded)]


@pytest.fixture
def by_autograd(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Tensor]], Tensor]:
    """Runs something with every layer composed alone, by torch's own operators."""

    def run(what: Callable[[], Tensor]) -> Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(expanded, "kernel_of", lambda layer: None)
            return what()

    return run


ByAutograd = Callable[[Callable[[], Tensor]], Tensor]


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


def assert_near(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one - other).abs().max() <= 1e-12 * other.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize("norm", [name for name in NORMS if not NORMS[name].runs])
@pytest.mark.parametrize(
    "block",
    [*PRESETS, "conv(k) + conv(1) >> depthwise(3) >> conv(1)", "conv(k) + depthwise(1, width=3) >> conv(k)"],
)
def test_gradients_are_those_of_autograd(block: str, norm: str, by_autograd: ByAutograd) -> None:
    model = student(block, norm)
    loss, own = model(X).square().sum(), by_autograd(lambda: model(X).square().sum())
    assert_near([loss], [own])
    assert_near(gradients(model, loss), gradients(model, own))
    loss, own = model(X, False).square().sum(), by_autograd(lambda: model(X, False).square().sum())
    assert_near(gradients(model, loss), gradients(model, own))


@pytest.mark.parametrize("block", ["dbb", "orepa"])
def test_layouts_are_those_of_the_parameters(block: str, by_autograd: ByAutograd) -> None:
    model = student(block).to(memory_format=torch.channels_last)
    loss, own = model(X).square().sum(), by_autograd(lambda: model(X).square().sum())
    found = gradients(model, loss)
    assert_near(found, gradients(model, own))
    for layer in layers(model):
        kernel = expanded.kernel_of(layer)
        assert kernel is not None
        assert kernel.stride() == layer.base.weight.stride()


@pytest.mark.parametrize(
    "block",
    ["dbb", "orepa", "conv(k) + conv(2) >> conv(2)", "mobileone", "conv(1) >> depthwise(k) >> conv(1)"],
)
def test_gradients_of_gradients(block: str) -> None:
    model = rk.expand(nn.Sequential(nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)).double(), block)
    pair = [layer.parts() for layer in layers(disturb(model))]
    first, second = (parts for parts in pair if parts is not None)

    def kernels(*tensors: Tensor) -> tuple[Tensor, ...]:
        half = len(tensors) // 2
        return compose([first._replace(tensors=tensors[:half]), second._replace(tensors=tensors[half:])])

    tensors = [t.detach().requires_grad_() for t in (*first.tensors, *second.tensors)]
    assert torch.autograd.gradcheck(kernels, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(kernels, tensors, fast_mode=True)


def test_launches_do_not_grow_with_depth() -> None:
    def launches(depth: int) -> int:
        model = student(depth=depth)
        with profile(activities=[ProfilerActivity.CPU]) as seen, composed(model):
            for layer in layers(model):
                expanded.kernel_of(layer)
        names = ("aten::bmm", "aten::mul", "aten::cat", "aten::add_", "aten::view")
        return sum(event.name in names for event in seen.events())

    launches(2), launches(6)  # the fixed filters are made once
    assert launches(2) == launches(6)


def data(model: nn.Module, change: Callable[[Tensor], object]) -> None:
    for parameter in model.parameters():
        change(parameter.data)


def step(kind: type[torch.optim.Optimizer], **choices: object) -> Callable[[nn.Module], None]:
    def take(model: nn.Module) -> None:
        optimizer = kind(model.parameters(), lr=0.1, **choices)  # type: ignore[call-arg]
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()

    return take


def replaced(model: nn.Module) -> None:
    layers(model)[1].branches[0].scale = nn.Parameter(torch.ones(4, dtype=torch.float64))


def average(model: nn.Module) -> None:
    other = disturb(copy.deepcopy(model))
    AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5)).update_parameters(other)
    with torch.no_grad():
        torch._foreach_lerp_(list(model.parameters()), list(other.parameters()), 0.5)


def another(model: nn.Module) -> dict[str, Tensor]:
    return disturb(copy.deepcopy(model)).state_dict()


SEEN: dict[str, Callable[[nn.Module], object]] = {
    "sgd": step(torch.optim.SGD, momentum=0.9),
    "sgd, foreach": step(torch.optim.SGD, foreach=True),
    "sgd, fused": step(torch.optim.SGD, fused=True),
    "adamw, fused": step(torch.optim.AdamW, fused=True),
    "adam, foreach": step(torch.optim.Adam, foreach=True),
    "load_state_dict": lambda model: model.load_state_dict(another(model)),
    "load_state_dict, assigned": lambda model: model.load_state_dict(another(model), assign=True),
    "an average": average,
    "another data": lambda model: [setattr(p, "data", torch.randn_like(p)) for p in model.parameters()],
    "another parameter": replaced,
    "a branch less": lambda model: layers(model)[0].branches.__delitem__(0),
}
UNSEEN: dict[str, Callable[[nn.Module], object]] = {
    "data in place": lambda model: data(model, lambda tensor: tensor.mul_(1.5)),
    "numpy": lambda model: data(model, lambda tensor: tensor.numpy().__imul__(1.5)),
    "storage": lambda model: data(
        model, lambda tensor: tensor.untyped_storage().copy_((tensor * 2).contiguous().untyped_storage())
    ),
}


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("change", [*SEEN, *UNSEEN])
def test_no_kernel_outlives_a_change(
    change: str, training: bool, mode: Callable[[], object], by_autograd: ByAutograd
) -> None:
    model = student().train(training)
    with mode():  # type: ignore[attr-defined]
        before = model(X, ask=False)  # a kernel that is not asked for is composed with the others
    {**SEEN, **UNSEEN}[change](model)
    with mode():  # type: ignore[attr-defined]
        assert_near([model.asked(X)], [by_autograd(lambda: model.asked(X))])
        after = model(X)
        assert_near([after], [by_autograd(lambda: model(X))])
    assert not torch.equal(model(X, ask=False), before)


@pytest.mark.parametrize("change", SEEN)
def test_changes_are_seen_where_passes_share_their_kernels(change: str, by_autograd: ByAutograd) -> None:
    model = student()
    with composed(model):
        before = model(X)
        assert torch.equal(model(X), before)
        SEEN[change](model)
        after = model(X)
        own = by_autograd(lambda: model(X))
        assert_near([after], [own])
        assert not torch.equal(after, before)
        assert_near(gradients(model, after.sum()), gradients(model, own.sum()))


def test_modes_within_shared_kernels() -> None:
    model = student()
    with composed(model):
        with torch.inference_mode():
            seen = model(X)
        with torch.no_grad():
            assert torch.equal(model(X), seen)
        loss = model(X).sum()
        found = gradients(model, loss)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        assert not model(X).requires_grad
    assert all(gradient is not None for gradient in found)


def test_losses_that_share_kernels_give_the_gradients_of_their_sum(by_autograd: ByAutograd) -> None:
    model = student()
    views = [torch.randn_like(X) for _ in range(3)]
    own = by_autograd(lambda: sum((model(view).square().sum() for view in views), X.new_zeros(())))
    expected = gradients(model, own)
    with composed(model):  # two views in one loss, and a batch of its own
        (model(views[0]).square().sum() + model(views[1]).square().sum()).backward()
        model(views[2]).square().sum().backward()
    assert_near([parameter.grad for parameter in model.parameters()], expected)


def test_gradients_are_memory_of_their_own() -> None:
    for block in ("mobileone", "dbb", "acb"):
        for norm in ("none", "scale"):
            model = student(block, norm)
            model(X).square().sum().backward()
            expected = [parameter.grad.clone() for parameter in model.parameters()]
            for parameter in model.parameters():
                parameter.grad.mul_(2)
            for parameter, gradient in zip(model.parameters(), expected, strict=True):
                assert torch.equal(parameter.grad, 2 * gradient)


@pytest.mark.parametrize("part", ["base", "branches", "one branch", "a layer", "all"])
def test_frozen_parts(part: str, by_autograd: ByAutograd) -> None:
    model = student("orepa")
    for layer in layers(model)[:3]:
        frozen = {
            "base": [layer.base],
            "branches": layer.branches,
            "one branch": [layer.branches[0]],
            "a layer": [layers(model)[0]],
            "all": [layer],
        }[part]
        for module in frozen:
            module.requires_grad_(False)
    model(X).square().sum().backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    by_autograd(lambda: model(X).square().sum()).backward()
    assert_near(found, [parameter.grad for parameter in model.parameters()])


def test_autocast_does_not_round_kernels() -> None:
    model = student().float()
    with torch.autocast("cpu", torch.bfloat16):
        kernels = [expanded.kernel_of(layer) for layer in layers(model)]
        loss = sum((kernel.square().sum() for kernel in kernels), X.new_zeros(()))
        found = gradients(model, loss)
    own = sum((layer.multiply_out().weight.square().sum() for layer in layers(model)), X.new_zeros(()))
    for one, other in zip(found, gradients(model, own), strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_change_between_forward_and_backward_is_an_error() -> None:
    model = student()
    loss = model(X).sum()
    step(torch.optim.SGD)(model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_pass_ends_with_its_call(by_autograd: ByAutograd) -> None:
    """By an error, too; and passes of other nets, and in other threads, are their own."""
    model, other = student(), student("orepa")
    whole = nn.Sequential(model, other)
    with pytest.raises(RuntimeError):
        model(torch.zeros(1, 3, 2, 2, dtype=torch.float64))
    for _ in range(2):
        data(whole, lambda tensor: tensor.mul_(1.1))
        assert_near([model.asked(X)], [by_autograd(lambda: model.asked(X))])
        expected = by_autograd(lambda: whole(X))
        with composed(whole):
            assert_near([whole(X)], [expected])
        assert_near([whole(X)], [expected])
        with ThreadPoolExecutor(1) as pool, composed(other):
            assert_near(list(pool.map(whole, [X])), [expected])


def test_copies_are_composed_of_their_own_parameters(by_autograd: ByAutograd) -> None:
    model = student()
    for copied in (copy.deepcopy(model), rk.duplicate(model), AveragedModel(model).module):
        data(copied, lambda tensor: tensor.mul_(1.5))
        with composed(model):
            assert_near([copied(X)], [by_autograd(partial(copied, X))])
        assert not torch.equal(copied(X), model(X))


def test_what_is_written_of_it_knows_of_no_passes() -> None:
    net = Alike().double()
    seen: list[object] = []
    net.register_forward_hook(lambda module, args, output: seen.append(output))
    model = rk.expand(net)
    plain = rk.fold(model)
    assert len(plain._forward_hooks) == 1
    assert not plain._forward_pre_hooks
    assert not plain._forward_hooks_always_called
    plain(X)
    assert len(seen) == 1
    nested = rk.fold(nn.Sequential(model))
    assert not nested[0]._forward_pre_hooks
    assert list(model.state_dict()) == list(pickle.loads(pickle.dumps(student())).state_dict())


def test_functions_of_the_parameters(by_autograd: ByAutograd) -> None:
    """As ``torch.func`` calls a model: with tensors in the place of its parameters."""
    model = student()
    parameters = {name: (2 * p).detach().requires_grad_() for name, p in model.named_parameters()}

    def loss(values: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, values, X).square().sum()

    expected = torch.autograd.grad(by_autograd(lambda: loss(parameters)), list(parameters.values()))
    assert_near(list(torch.autograd.grad(loss(parameters), list(parameters.values()))), list(expected))
    assert_near(list(torch.func.grad(loss)(parameters).values()), list(expected))


def test_factors_that_only_look_equal(by_autograd: ByAutograd) -> None:
    class Faint(Fixed, name="faint"):  # without @dataclass, so that all of them are equal
        def __init__(self, size: int) -> None:
            object.__setattr__(self, "size", size)

        def filter(self, taps: tuple[int, ...]) -> Tensor:
            return torch.full(taps, self.size, dtype=torch.float64)

    try:
        for size in (1, 2):
            model = disturb(rk.expand(Alike().double(), Conv("k") + (Conv(1) >> Faint(size))))
            assert_near([model(X)], [by_autograd(partial(model, X))])
    finally:
        FACTORS._known.pop("faint")


def test_a_traced_graph_is_the_same() -> None:
    model = student()
    traced = torch.fx.symbolic_trace(model, {"ask": True})
    assert_near([traced(X)], [model(X)])


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_parts(reentrant: bool, by_autograd: ByAutograd) -> None:
    class Checkpointed(Alike):
        def forward(self, x: Tensor, ask: bool = True) -> Tensor:
            for block in self.blocks:
                x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)
            return self.asked(self.twice(x))

    model = disturb(rk.expand(Checkpointed().double()))
    x = X.clone().requires_grad_()
    model(x).square().sum().backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    by_autograd(lambda: model(x).square().sum().backward())
    assert_near(found, [parameter.grad for parameter in model.parameters()])
