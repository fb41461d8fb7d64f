"""Kernels that are replayed are those that would be composed, and as independent of each other.

Where there is no CUDA, work that is done again in the same memory stands for a graph.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from nets import disturb
from torch import Tensor, nn

import reparam_kit as rk
from reparam_kit.algebra import NORMS, PRESETS, earlier, passes, replay

DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]


class Again:
    """Does work again, as a graph does: in the same memory."""

    def __init__(self, device: torch.device) -> None:
        pass

    def fits(self) -> bool:
        return True

    def prepare(self, work: Callable[[], object]) -> None:
        work()

    def record(self, work: Callable[[], object]) -> Callable[[], object]:
        """It is replayed where a graph would not care whether gradients are wanted."""
        with torch.enable_grad():
            work()
        return torch.enable_grad()(work)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cpu":
        monkeypatch.setattr(passes, "RECORDED_ON", {"cpu"})
        monkeypatch.setattr(replay, "Recorder", Again)
    return request.param


class Net(nn.Module):
    """Layers of equal form and of other forms, one of which is called if asked."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, bias=False)
        self.body = nn.Sequential(
            *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)), nn.Conv2d(4, 4, 5, groups=2)
        )
        self.asked = nn.Conv2d(4, 4, 7, padding=3)

    def forward(self, x: Tensor, ask: bool = True) -> Tensor:
        x = self.body(self.stem(x)).relu()
        return self.asked(x) if ask else x


def student(device: str, block: str = "dbb", norm: str = "scale") -> nn.Module:
    torch.manual_seed(0)
    return disturb(rk.expand(Net().double(), block, norm)).to(device)


def images(device: str, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed)).double().to(device)


def recorded(model: nn.Module) -> bool:
    return model in earlier._EARLIER and earlier._EARLIER[model]._replay is not None


Training = Callable[[nn.Module, torch.optim.Optimizer, int], None]


def one_loss(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    model(images(place(model), seed)).square().mean().backward()
    optimizer.step()


def two_batches(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """Accumulated: gradients of one replay are added to those of another."""
    optimizer.zero_grad()
    for part in range(2):
        model(images(place(model), 2 * seed + part)).square().mean().backward()
    optimizer.step()


def two_views(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """Two passes are open when they go back, the first one last."""
    optimizer.zero_grad()
    first, second = (model(images(place(model), 2 * seed + part)).square().mean() for part in range(2))
    second.backward()
    first.backward()
    optimizer.step()


def one_pass_for_two(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    with rk.composed(model):
        first, second = (model(images(place(model), 2 * seed + part)) for part in range(2))
        (first - 2 * second).square().mean().backward()
        optimizer.step()
        model(images(place(model), seed)).square().mean().backward()
    optimizer.step()


def not_all_layers(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    model(images(place(model), seed), ask=seed % 2 == 0).square().mean().backward()
    optimizer.step()


def gradients_of_gradients(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    optimizer.zero_grad()
    x = images(place(model), seed).requires_grad_()
    (slope,) = torch.autograd.grad(model(x).square().mean(), x, create_graph=True)
    slope.square().mean().backward()
    optimizer.step()


def looked_at_between(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    with torch.no_grad():
        model(images(place(model), seed + 9))
    one_loss(model, optimizer, seed)


def frozen_midway(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    if seed == 4:
        model.stem.base.weight.requires_grad_(False)
    one_loss(model, optimizer, seed)


def place(model: nn.Module) -> str:
    return next(model.parameters()).device.type


def trained(model: nn.Module, training: Training) -> list[Tensor]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for seed in range(7):
        training(model, optimizer, seed)
    return [value.cpu() for value in model.state_dict().values()]


@pytest.mark.parametrize("training", [
    one_loss, two_batches, two_views, one_pass_for_two, not_all_layers, gradients_of_gradients, looked_at_between,
    frozen_midway,
])  # fmt: skip
def test_training_goes_as_without(device: str, training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    model = student(device)
    found = trained(model, training)
    assert recorded(model)
    monkeypatch.setattr(passes, "RECORDED_ON", set())
    for one, other in zip(found, trained(student(device), training), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("norm", [name for name in NORMS if not NORMS[name].runs])
@pytest.mark.parametrize("block", PRESETS)
def test_each_preset(device: str, block: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 7, padding=3), nn.Conv2d(4, 4, 7, padding=3), nn.Conv2d(4, 4, 7))
        return disturb(rk.expand(net.double(), block, norm)).to(device)

    model = made()
    found = trained(model, one_loss)
    assert recorded(model) == (block != "dilated")  # which is left to torch's own operators
    monkeypatch.setattr(passes, "RECORDED_ON", set())
    for one, other in zip(found, trained(made(), one_loss), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_a_parameter_that_changes_between_the_ways_is_refused(device: str) -> None:
    model = student(device)
    trained(model, one_loss)
    loss = model(images(device)).square().mean()
    with torch.no_grad():
        model.stem.base.weight.add_(1)
    with pytest.raises(RuntimeError, match="inplace operation since the forward pass"):
        loss.backward()


def test_gradients_are_not_those_of_the_next_pass(device: str) -> None:
    model = student(device)
    trained(model, one_loss)
    model.zero_grad()
    model(images(device, 1)).square().mean().backward()
    grads = [parameter.grad for parameter in model.parameters()]
    before = [grad.clone() for grad in grads]
    model.zero_grad()
    model(images(device, 2)).square().mean().backward()
    assert all(map(torch.equal, grads, before))


def test_the_layouts_of_the_parameters_are_kept(device: str) -> None:
    model = student(device).to(memory_format=torch.channels_last)
    trained(model, one_loss)
    assert recorded(model)
    assert all(parameter.grad.stride() == parameter.stride() for parameter in model.parameters())


def test_a_model_is_not_held(device: str) -> None:
    model = student(device)
    model.register_forward_hook(lambda module, args, output: None)
    model.stem.register_forward_hook(lambda module, args, output, whole=model: None)
    trained(model, one_loss)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None
