"""Every convolution is answered for: a site, or a reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nets import Dynamic, Plain, Residual, Shared, build, images
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import reparam_kit as rk


def test_a_plain_net() -> None:
    sites = {site.name: site for site in rk.inspect(build(Plain))}
    assert list(sites) == ["stem.conv", "groups.conv", "depthwise.conv", "even", "flat", "point", "head"]
    assert all(site.reason is None and site.calls == 1 for site in sites.values())
    assert [site.batch_norm for site in sites.values()] == [
        "stem.bn",
        "groups.bn",
        "depthwise.bn",
        None,
        None,
        None,
        None,
    ]
    head = sites["head"]
    assert (head.kind, head.geometry.weight_shape, head.stride, head.dilation) == ("Linear", (4, 10), (), ())
    stem = sites["stem.conv"]
    assert (stem.kind, stem.geometry.weight_shape, stem.stride, stem.bias) == (
        "Conv2d",
        (8, 3, 3, 3),
        (2, 2),
        False,
    )


def test_calls_are_counted_and_aliases_are_one() -> None:
    assert [(site.name, site.calls) for site in rk.inspect(build(Shared))] == [("twice", 2), ("first", 2)]


def test_a_batch_norm_behind_a_fork_is_not_the_convolutions_own() -> None:
    (site,) = rk.inspect(build(Residual))
    assert site.batch_norm is None


def test_an_untraceable_net_still_has_sites() -> None:
    (site,) = rk.inspect(build(Dynamic))
    assert (site.reason, site.calls, site.batch_norm) == (None, None, None)


class Functional(nn.Module):
    """Convolves with a parameter, with the weight of a module, and with what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(3, 3, 3, 3))
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel)
        x = F.conv_transpose2d(input=x, weight=self.conv.weight)
        return F.conv2d(x, self.kernel + 1)


class Dynamical(Functional):
    """The same, in a form that cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.isfinite().all() else x


@pytest.mark.parametrize("net", [Functional, Dynamical])
def test_functional_convolutions_say_whose_weight_they_take(net: type[nn.Module]) -> None:
    sites = {site.name: site.reason for site in rk.inspect(net(), images())}
    text = "functional call: its weight is {}, outside the forward of a layer"
    assert sites == {
        "conv": "its weight or bias is read outside its own forward",
        "conv2d#1": text.format("the parameter kernel"),
        "conv_transpose2d#1": text.format("the parameter conv.weight"),
        "conv2d#2": text.format("computed"),
    }


def test_functional_convolutions_of_both_finders_are_the_same() -> None:
    assert rk.inspect(Functional())[1:] == rk.inspect(Functional(), images())[1:]


class Reader(nn.Module):
    """A layer that runs, and whose parameter is read besides."""

    def __init__(self, read: Callable[[nn.Conv2d], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.read = read

    def forward(self, x: Tensor) -> object:
        return self.conv(x), self.read(self.conv)


@pytest.mark.parametrize("x", [None, images()], ids=["traced", "run"])
@pytest.mark.parametrize(
    ("read", "refused"),
    [
        (lambda conv: conv.weight.square().sum(), True),
        (lambda conv: torch.stack([conv.bias]), True),
        (lambda conv: conv.weight[:1] + 1, True),
        (lambda conv: (conv.weight.shape, conv.weight.dtype, conv.bias.device, conv.weight.size(0)), False),
    ],
    ids=["weight", "bias", "part", "metadata"],
)
def test_parameters_that_are_read_elsewhere(
    read: Callable[[nn.Conv2d], object], refused: bool, x: Tensor | None
) -> None:
    (site,) = rk.inspect(Reader(read), x)
    assert (site.reason == "its weight or bias is read outside its own forward") == refused


def test_a_weight_held_in_a_list_and_read_from_there_is_refused() -> None:
    class Listed(nn.Module):
        """Its list holds the weight itself, which the stand-in's ``weight`` is not."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)
            self.weights = [self.conv.weight]

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + self.weights[0].mean()

    for x in (None, images()):
        (site,) = rk.inspect(Listed(), x)
        assert site.reason == "its weight or bias is read outside its own forward"


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_module_stays_lazy() -> None:
    net = nn.Sequential(nn.LazyConv2d(3, 3))
    (site,) = rk.inspect(net, images())
    assert (type(net[0]), site.macs) == (nn.LazyConv2d, None)


@pytest.mark.parametrize("x", [None, torch.randn(2, 5, 4)], ids=["traced", "run"])
def test_attention_reads_the_weight_of_its_output_layer(x: Tensor | None) -> None:
    net = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    sites = {site.name: site for site in rk.inspect(nn.Sequential(net), x)}
    assert sites["0.self_attn.out_proj"].reason == "its weight or bias is read outside its own forward"
    # Traced, the layer is one step, and how often its parts run is not known.
    assert [sites[f"0.linear{i}"].calls for i in (1, 2)] == [None if x is None else 1] * 2


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torchscript_is_answered_for() -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()))
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.part(x))

    sites = rk.inspect(Scripted(), images())
    assert {site.name: site.reason for site in sites} == {
        "part.0": "TorchScript: its code is fixed",
        "conv": None,
        "convolution#1": "functional call: its weight is the parameter part.0.weight, outside the forward of a layer",
    }


def test_kind_is_the_class_of_torch() -> None:
    class Own(nn.Conv2d):
        pass

    class OwnLinear(nn.Linear):
        pass

    net = nn.Sequential(Own(3, 3, 3), nn.ConvTranspose1d(3, 3, 3), OwnLinear(3, 3))
    assert [site.kind for site in rk.inspect(net)] == ["Conv2d", "ConvTranspose1d", "Linear"]


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Conv2d(3, 3, 3)
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    net[1].weight = net[0].weight
    return net


def frozen() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 3)).requires_grad_(False)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (Unused, "never runs it"),
        (tied, "its weight is also"),
        (frozen, "requires_grad=False"),
        (lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 3, 3))), "rk.bake(model)"),
        (lambda: nn.Sequential(nn.LazyConv2d(3, 3)), "lazy module"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 3, dtype=torch.complex64)), "complex64, not floating point"),
        (lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3))), "rk.bake(model)"),
        (lambda: rk.expand(nn.Sequential(nn.Conv2d(3, 3, 3))), "expanded already"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_reasons(net: type[nn.Module], reason: str) -> None:
    reasons = [site.reason for site in rk.inspect(net()) if site.reason]
    assert reasons
    assert all(reason in text for text in reasons)


def test_what_no_input_can_run_is_told_from_what_this_one_does_not() -> None:
    assert rk.inspect(Unused(), images())[1].reason == "the forward pass never runs it"


def test_a_batch_norm_without_running_statistics_is_no_home_for_a_shift() -> None:
    (site,) = rk.inspect(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)))
    assert (site.batch_norm, site.reason) == (None, None)


@pytest.mark.parametrize("training", [True, False])
def test_inspecting_leaves_the_mode_alone(training: bool) -> None:
    net = build(Plain).train(training)
    rk.inspect(net)
    assert {module.training for module in net.modules()} == {training}
