"""An expanded layer in the place of a plain one: what reads its weight, writes to it or fuses it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets import disturb, images
from students import ALL, X, base_of, distance, student
from torch import Tensor, nn
from torch.ao.quantization import QuantWrapper, get_default_qat_qconfig, prepare_qat
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

import reparam_kit as rk
from reparam_kit.algebra import NORMS, Expanded
from reparam_kit.restoration import Restored

WRITES: dict[str, Callable[[nn.Module], object]] = {
    "in place": lambda conv: conv.weight.mul_(0.5),
    "an operator": lambda conv: conv.weight.__imul__(2),
    "an item": lambda conv: conv.weight.__setitem__(0, 0.0),
    "a view": lambda conv: conv.weight[0].zero_(),
    "data": lambda conv: conv.weight.data.clamp_(-1, 1),
    "detached": lambda conv: conv.weight.detach().zero_(),
    "the data itself": lambda conv: setattr(conv.weight, "data", torch.zeros(1)),
    "an initialiser": lambda conv: nn.init.kaiming_uniform_(conv.weight),
    "an output": lambda conv: (
        torch.zeros(4, 4, 3, 3, dtype=torch.float64).add(1).clone().copy_(conv.weight)
        + torch.add(conv.weight, 1, out=conv.weight)
    ),
    "requires_grad": lambda conv: conv.weight.requires_grad_(False),
    "another parameter": lambda conv: setattr(conv, "weight", nn.Parameter(torch.zeros(4, 4, 3, 3))),
    "another tensor": lambda conv: setattr(conv, "weight", torch.zeros(4, 4, 3, 3)),
}


@pytest.mark.parametrize("norm", ALL)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_is_written_into_a_sum_is_an_error(write: Callable[[nn.Module], object], norm: str) -> None:
    net = student(norm)
    with torch.no_grad(), pytest.raises(rk.InputError, match=r"conv.*base"):
        write(net.conv)


@pytest.mark.parametrize("norm", ALL)
def test_a_sum_is_read_as_any_tensor(norm: str) -> None:
    net = student(norm)
    plain = rk.fold(net).conv
    weight, bias = net.conv.weight, net.conv.bias
    assert (weight.shape, weight.dtype, weight.device) == (
        plain.weight.shape,
        plain.weight.dtype,
        plain.weight.device,
    )
    for got, expected in ((weight, plain.weight), (bias, plain.bias)):
        torch.testing.assert_close(got.clone(), expected.detach(), check_dtype=True)
        own = torch.cat([got, got])
        assert type(own) is Tensor
        own.zero_()
    weight.square().sum().backward()
    assert base_of(net).weight.grad is not None


@pytest.mark.parametrize("norm", ALL)
def test_attributes_that_are_set_are_those_of_the_layer(norm: str) -> None:
    net = student(norm)
    net.conv.note = "mine"
    net.conv.padding = (0, 0)
    folded = rk.fold(net)
    assert (net.conv.note, base_of(net).note, folded.conv.note) == ("mine",) * 3
    if norm != "batch":
        assert folded(X).shape == net(X).shape


def test_helpers_that_fuse_convolution_and_batch_norm_are_right_or_refused() -> None:
    """As torch does, and MobileOne's blocks in timm, which look at the weight alone."""
    for norm in NORMS:
        net = student(norm)
        conv, bn = net.backbone[:2]
        arguments = (bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
        if norm == "batch":
            with pytest.raises(rk.InputError, match=r"backbone\.0.*call rk\.fold first"):
                fuse_conv_bn_weights(conv.weight, conv.bias, *arguments)
        else:
            weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, *arguments)
            assert distance(nn.functional.conv2d(X, weight, bias), bn(conv(X))) < 1e-12
        with pytest.raises(rk.InputError):
            fuse_conv_bn_eval(conv, bn)


@pytest.mark.parametrize("norm", ALL)
def test_as_timm_fuses_module_by_module(norm: str) -> None:
    net = student(norm)
    expected = net(X)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Expanded | Restored):
                setattr(parent, name, child.fuse())
    assert distance(net(X), expected) < 1e-12


@pytest.mark.parametrize("norm", ["scale", "batch"])
@pytest.mark.filterwarnings("ignore")
def test_quantisation_in_training_after_expand_is_exact_or_refused(norm: str) -> None:
    net = disturb(rk.expand(QuantWrapper(nn.Conv2d(3, 8, 3)), "dbb", norm)).train()
    net.qconfig = get_default_qat_qconfig("x86")
    net = prepare_qat(net)
    net(images())
    net.apply(torch.ao.quantization.disable_observer).eval()
    if norm == "batch":
        with pytest.raises(rk.InputError, match="cannot be folded"):
            rk.fold(net)
    else:
        x = images()
        assert distance(rk.fold(net)(x), net(x)) < 1e-6
