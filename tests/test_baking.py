"""Parametrised weights made plain: the same function, class and tree, and the original left as it was."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from nets import Plain, build, disturb, images
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import reparam_kit as rk


class Doubled(nn.Module):
    """A parametrisation with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def custom(module: nn.Module) -> nn.Module:
    parametrize.register_parametrization(module, "weight", Doubled())
    return parametrize.register_parametrization(module, "bias", Doubled())


def stacked(module: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(custom(module))


def pruned_twice(module: nn.Module) -> nn.Module:
    prune.random_unstructured(module, "weight", 0.3)
    return prune.l1_unstructured(module, "weight", 0.3)


def old_weight_norm(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module)


STYLES = [
    parametrizations.weight_norm,
    parametrizations.spectral_norm,
    parametrizations.orthogonal,
    custom,
    stacked,
    old_weight_norm,
    nn.utils.spectral_norm,
    pruned_twice,
]
LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Conv2d(3, 4, 3),
    lambda: nn.ConvTranspose2d(3, 4, 3),
    lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1),
    lambda: nn.Linear(17, 5),
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("make", LAYERS, ids=["conv", "transposed", "depthwise", "linear"])
@pytest.mark.parametrize("style", STYLES)
def test_the_same_function_from_a_plain_module(
    style: Callable[[nn.Module], nn.Module], make: Callable[[], nn.Module], training: bool
) -> None:
    plain = make()
    model = style(copy.deepcopy(plain)).train()
    x = images()
    disturb(model)
    model(x).sum().backward()  # moves the vectors of spectral norm; leaves a computed weight with a history
    model.train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    baked = rk.bake(model)
    assert type(baked) is type(plain)
    assert baked.training is model.training is training
    assert list(baked.state_dict()) == list(plain.state_dict())
    assert not baked._forward_pre_hooks
    assert all(isinstance(value, nn.Parameter) and value.requires_grad for value in baked.parameters())
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    with torch.no_grad():
        assert torch.equal(baked.eval()(x), model.eval()(x))
        assert not torch.equal(baked(x), plain(x))
    model.train()(x).sum().backward()  # the original still is what it was
    pickle.loads(pickle.dumps(baked)).load_state_dict(plain.state_dict())


def test_a_net_bakes_expands_and_folds() -> None:
    plain = build(Plain)
    model = copy.deepcopy(plain)
    parametrizations.weight_norm(model.stem.conv)
    nn.utils.spectral_norm(model.even)
    baked = rk.bake(model)
    x = images()
    with torch.no_grad():
        assert torch.equal(baked.eval()(x), model.eval()(x))
        assert torch.equal(rk.fold(rk.expand(baked))(x), baked(x))
    assert list(baked.state_dict()) == list(plain.state_dict())
    assert {type(module) for module in baked.modules()} == {type(module) for module in plain.modules()}


@pytest.mark.parametrize("style", [parametrizations.weight_norm, old_weight_norm])
def test_shared_modules_stay_shared(style: Callable[[nn.Module], nn.Module]) -> None:
    conv = style(nn.Conv2d(3, 3, 3, padding=1))
    model = nn.ModuleDict({"net": nn.Sequential(conv, nn.ReLU(), conv), "alias": conv})
    baked = rk.bake(model)
    assert baked["net"][0] is baked["net"][2] is baked["alias"]
    assert type(baked["alias"]) is nn.Conv2d
    assert len(list(baked.parameters())) == 2


@pytest.mark.parametrize("style", [parametrizations.weight_norm, old_weight_norm, custom, pruned_twice])
def test_frozen_stays_frozen(style: Callable[[nn.Module], nn.Module]) -> None:
    conv = style(nn.Conv2d(3, 3, 3)).requires_grad_(False)
    assert not rk.bake(conv).weight.requires_grad


@pytest.mark.parametrize("style", [parametrizations.weight_norm, old_weight_norm, pruned_twice])
def test_hooks_of_the_user_stay(style: Callable[[nn.Module], nn.Module]) -> None:
    conv = style(nn.Conv2d(3, 3, 3))
    conv.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    baked = rk.bake(conv)
    assert len(baked._forward_pre_hooks) == 1
    assert torch.equal(baked(x := images()), conv(x))


def test_a_buffer_stays_a_buffer() -> None:
    norm = nn.BatchNorm2d(3)
    norm.running_var.uniform_(0.5, 2)
    parametrize.register_parametrization(norm, "running_var", nn.Softplus())
    baked = rk.bake(norm)
    assert "running_var" in dict(baked.named_buffers())
    assert torch.equal(baked.running_var, norm.running_var)


def test_two_copies_of_one_class_do_not_disturb_each_other() -> None:
    """A parametrised module and its copy have one class, from which torch's own removal takes the property."""
    model = parametrizations.weight_norm(nn.Conv2d(3, 3, 3))
    twin = copy.deepcopy(model)
    rk.bake(model)
    assert torch.equal(twin(x := images()), model(x))


def test_a_plain_model_is_refused() -> None:
    with pytest.raises(rk.NothingToDoError, match="nothing to bake"):
        rk.bake(build(Plain))


class Standardised(nn.Conv2d):
    """Weight standardisation in the forward, as timm's StdConv2d and ScaledStdConv2d have it."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return self._conv_forward(x, flat.view_as(self.weight), self.bias)


@pytest.mark.parametrize("norm", ["scale", "none"])
def test_standardised_convolutions_are_no_parametrisation_and_expand_exactly(norm: str) -> None:
    model = nn.Sequential(Standardised(3, 4, 3, padding=1), nn.ReLU(), Standardised(4, 4, 3)).double()
    with pytest.raises(rk.NothingToDoError):
        rk.bake(model)
    x = images().double()
    student = rk.expand(model, "dbb", norm, calibration=[x])
    with torch.no_grad():
        assert torch.equal(student(x), model(x))
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        torch.testing.assert_close(rk.fold(student)(x), student(x), rtol=1e-12, atol=1e-12)
