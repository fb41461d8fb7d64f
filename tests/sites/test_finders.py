"""Two finders, one dataflow: what they see, what they refuse to claim, and that they leave no trace."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nets import NETS, Dynamic, Plain, Residual, Shared, build, images
from torch import Tensor, nn

import reparam_kit as rk
from reparam_kit.sites.find_flow import observe
from reparam_kit.sites.find_fx import trace
from reparam_kit.sites.flow import Flow

X = images()


class Body(nn.Module):
    """A convolution and a BatchNorm, joined by a function of (conv, bn, x)."""

    def __init__(self, join: Callable[[nn.Module, nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.identity = nn.Identity()
        self.drop = nn.Dropout(0.5)
        self.kept: object = None
        self.join = join

    def forward(self, x: Tensor) -> object:
        return self.join(self, x)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2


SCRIPT = torch.jit.CompilationUnit(
    """
def double(x):
    return x * 2
def convolve(x, weight):
    return torch.conv2d(x, weight)
"""
)


def keep(net: Body, x: Tensor) -> Tensor:
    net.kept = net.conv(x)
    return net.bn(net.kept)


def in_place(net: Body, x: Tensor) -> Tensor:
    y = net.conv(x)
    y += 1
    return net.bn(y)


def write_into_view(net: Body, x: Tensor) -> Tensor:
    y = net.conv(x)
    y[:, :, 0] = 0
    return net.bn(y)


def shape_first(net: Body, x: Tensor) -> Tensor:
    y = net.conv(x)
    count = y.shape[1] * y.size(2)
    return net.bn(y) / count


def twice(net: Body, x: Tensor) -> Tensor:
    return net.bn(net.conv(net.bn(net.conv(x))))


def fork(apply: Callable[[Tensor], Tensor]) -> Callable[[Body, Tensor], Tensor]:
    """The output goes to BatchNorm and, through ``apply``, past it."""

    def join(net: Body, x: Tensor) -> Tensor:
        y = net.conv(x)
        return net.bn(y) + apply(y)

    return join


JOINS: dict[str, tuple[Callable[[Body, Tensor], object], bool]] = {
    "straight": (lambda net, x: net.bn(net.conv(x)), True),
    "keyword": (lambda net, x: net.bn(input=net.conv(input=x)), True),
    "through an identity": (lambda net, x: net.bn(net.identity(net.conv(x))), True),
    "shape is read": (shape_first, True),
    "through dropout": (lambda net, x: net.bn(net.drop(net.conv(x))), False),
    "skip": (fork(lambda y: y), False),
    "skip through a view": (fork(lambda y: y[:, :, ::1]), False),
    "in place": (in_place, False),
    "returned beside": (lambda net, x: [net.bn(y := net.conv(x)), {"raw": y}], False),
    "run twice": (lambda net, x: net.bn(net.conv(net.conv(x))), False),
    "both run twice": (twice, False),
    "norm runs twice": (lambda net, x: net.bn(net.bn(net.conv(x))), False),
    "concatenated": (lambda net, x: net.bn(torch.cat([net.conv(x)], 1)), False),
    "never normalised": (lambda net, x: net.conv(x), False),
}


@pytest.mark.parametrize(("join", "own"), JOINS.values(), ids=JOINS)
def test_a_batch_norm_is_claimed_only_as_the_sole_consumer(join: Callable[..., object], own: bool) -> None:
    net = Body(join)
    traced, run = trace(net), observe(net, X)
    assert isinstance(traced, Flow)
    assert run.batch_norms == traced.batch_norms == ({net.conv: net.bn} if own else {})
    assert run.calls == traced.calls


@pytest.mark.parametrize(
    "join",
    [
        keep,
        write_into_view,
        fork(Double.apply),
        fork(SCRIPT.double),
        fork(lambda y: F.max_pool2d(y, 1)),
        fork(torch.ops.aten.relu),
    ],
    ids=["kept", "written into", "autograd function", "TorchScript", "dispatching function", "operator"],
)
def test_running_sees_consumers_of_every_kind(join: Callable[..., object]) -> None:
    net = Body(join)
    assert observe(net, X).batch_norms == {}
    (site,) = rk.inspect(net, X)
    assert (site.calls, site.batch_norm, site.reason) == (1, None, None)


@pytest.mark.parametrize("x", [None, X], ids=["traced", "run"])
def test_the_dtype_of_the_first_parameter_is_no_read_of_it(x: Tensor | None) -> None:
    net = Body(lambda net, x: net.bn(net.conv(x.to(next(net.parameters()).dtype))))
    assert [site.reason for site in rk.inspect(net, x)] == [None]


def test_running_does_not_wait_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    rk.inspect(build(Plain), X)
    assert "torch._dynamo" not in sys.modules


@pytest.mark.parametrize("side", ["conv", "bn"])
def test_no_batch_norm_is_claimed_past_a_hook(side: str) -> None:
    net = Body(lambda net, x: net.bn(net.conv(x)))
    if side == "conv":
        net.conv.register_forward_hook(lambda module, args, output: output + 1)
    else:
        net.bn.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    assert observe(net, X).batch_norms == trace(net).batch_norms == {}


@pytest.mark.parametrize("kind", NETS)
def test_both_finders_agree(kind: type[nn.Module]) -> None:
    net = build(kind)
    traced, run = trace(net), observe(net, X)
    if isinstance(traced, Flow):
        assert (run.calls, run.batch_norms, run.reads, run.functional) == (
            traced.calls,
            traced.batch_norms,
            traced.reads,
            traced.functional,
        )


class More(nn.Module):
    """Traced, it is given all its arguments; run, those of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.kernel = nn.Parameter(torch.randn(3, 3, 3, 3))

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        y = self.conv(x)
        return self.bn(y) if more is None else self.bn(y) + y + F.conv2d(more, self.kernel)


def test_where_the_finders_differ_the_careful_answer_counts() -> None:
    net = More()
    assert observe(net, X).batch_norms == {net.conv: net.bn}
    conv, functional = rk.inspect(net, X)
    assert (conv.calls, conv.batch_norm, functional.name) == (1, None, "conv2d#1")
    assert trace(net).batch_norms == {}


class Loop(nn.Module):
    """As many turns as the input says."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Conv2d(3, 3, 3, padding=1)
        self.out = nn.Conv2d(3, 4, 1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.other = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x.abs().amax().clamp(2, 2))):
            x = self.step(x)
        return self.bn(self.out(x)) if x.isfinite().all() else self.other(x)


class Patches(nn.Module):
    """Shapes worked out and checked, as einops does, and a list of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 4, stride=4)
        self.bn = nn.BatchNorm1d(4)
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.embed(x)
        batch, channels, *grid = y.shape
        if channels != 4:
            raise ValueError("four channels")
        tokens = self.bn(y.reshape(batch, channels, grid[0] * grid[1]))
        return [tokens, self.mix(tokens.transpose(1, 2))]


@pytest.mark.parametrize(
    ("net", "seen"),
    [
        (Dynamic(), [("conv", 1, None)]),
        (Loop(), [("step", 2, None), ("out", 1, "bn"), ("other", 0, None)]),
        (Patches(), [("embed", 1, None), ("mix", 1, None)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_untraceable_nets_are_followed_by_an_example(net: nn.Module, seen: list[tuple[object, ...]]) -> None:
    assert isinstance(trace(net), str)
    assert [(s.name, s.calls, s.batch_norm) for s in rk.inspect(net, X)] == seen
    assert [s.calls for s in rk.inspect(net)] == [None] * len(seen)


def test_what_the_example_does_not_run_is_refused() -> None:
    (site,) = [site for site in rk.inspect(Loop(), X) if site.reason]
    assert (site.name, site.reason) == ("other", "the example inputs never run it")


class Own(nn.Conv2d):
    """Pads by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


@pytest.mark.parametrize(
    ("layer", "shape", "positions", "macs"),
    [
        (nn.Conv1d(4, 6, 3), (2, 4, 10), 2 * 8, 2 * 8 * 6 * 4 * 3),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 9), 2 * 25, 2 * 25 * 6 * 4 * 9),
        (nn.Conv2d(4, 8, 3, groups=2, dilation=2), (1, 4, 9, 9), 25, 25 * 8 * 2 * 9),
        (
            nn.Conv2d(4, 4, (1, 5), groups=4, padding="same", padding_mode="reflect"),
            (1, 4, 6, 6),
            36,
            36 * 4 * 5,
        ),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3), 8, 8 * 3 * 2 * 8),
        (nn.Conv2d(4, 6, 3), (4, 5, 5), 9, 9 * 6 * 4 * 9),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), (2, 4, 5, 5), 2 * 121, 2 * 25 * 4 * 6 * 9),
        (nn.ConvTranspose2d(4, 8, 4, stride=2, padding=1, groups=2), (1, 4, 5, 5), 100, 25 * 4 * 4 * 16),
        (nn.ConvTranspose1d(4, 4, 3, groups=4), (1, 4, 5), 7, 5 * 4 * 3),
        (nn.Linear(4, 6), (2, 7, 4), 14, 14 * 4 * 6),
        (nn.Linear(4, 6), (4,), 1, 4 * 6),
        (Own(4, 6, 2), (1, 4, 5, 5), 25, 25 * 6 * 4 * 4),
    ],
)
def test_work_is_counted(layer: nn.Module, shape: tuple[int, ...], positions: int, macs: int) -> None:
    (site,) = rk.inspect(layer, torch.randn(shape))
    assert (site.positions, site.macs) == (positions, macs)
    (site,) = rk.inspect(nn.Sequential(layer))
    assert (site.positions, site.macs) == (None, None)


def test_work_of_all_calls_is_summed() -> None:
    assert [(site.calls, site.macs) for site in rk.inspect(Shared(), X)] == [(2, 2 * 2 * 17 * 17 * 81)] * 2


class Restless(nn.Module):
    """Everything a forward may leave behind, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.bn.eval()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))
        self.seen: object = None

    def forward(self, x: Tensor) -> Tensor:
        x += 1
        self.count += 1
        self.last = self.last + 1
        self.seen = self.conv(x)
        self.more = torch.rand(1)
        return self.bn(F.dropout(self.seen, training=True))


@pytest.mark.parametrize("x", [None, X], ids=["traced", "run"])
@pytest.mark.parametrize("kind", [Restless, Plain, Residual, Dynamic])
def test_looking_leaves_no_trace(kind: type[nn.Module], x: Tensor | None) -> None:
    net = build(kind).train()
    before = copy.deepcopy(net.state_dict())
    attributes = {module: set(module.__dict__) for module in net.modules()}
    modes = [module.training for module in net.modules()]
    buffers = list(net.buffers())
    given = None if x is None else x.clone()
    random = torch.get_rng_state()
    rk.inspect(net, given)
    assert torch.equal(torch.get_rng_state(), random)
    assert x is None or torch.equal(given, x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(a is b for a, b in zip(net.buffers(), buffers, strict=True))
    assert {module: set(module.__dict__) for module in net.modules()} == attributes
    assert getattr(net, "seen", None) is None
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_net_that_fails_on_the_example_is_named_and_left_as_it_was() -> None:
    net = build(Plain).train()
    with pytest.raises(rk.InputError, match="does not run on the example inputs: RuntimeError"):
        rk.inspect(net, torch.randn(1, 4, 17, 17))
    assert all(module.training and not module._forward_hooks for module in net.modules())


def test_a_convolution_in_torchscript_is_found() -> None:
    net = Body(lambda net, x: net.bn(SCRIPT.convolve(x, net.conv.weight)))
    assert [(site.name, site.reason) for site in rk.inspect(net, X)] == [
        ("conv", "its weight or bias is read outside its own forward"),
        (
            "convolution#1",
            "functional call: its weight is the parameter conv.weight, outside the forward of a layer",
        ),
    ]


def test_arguments_come_as_a_tuple() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)

        def forward(self, images: list[Tensor], factor: float) -> Tensor:
            return self.conv(torch.stack(images)) * factor

    (site,) = rk.inspect(Two(), ([X[0], X[1]], 0.5))
    assert (site.calls, site.positions) == (1, 2 * 15 * 15)
