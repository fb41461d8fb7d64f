"""What a layer may carry: every case gets a reason for one norm, and is exact with every other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from nets import build, disturb, images
from torch import Tensor, nn
from torch.nn.utils import parametrize

import reparam_kit as rk
from reparam_kit.algebra import NORMS


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Body(nn.Module):
    """Modules, and a forward that is a function of them and the input."""

    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Doubled(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


class Standardised(nn.Conv2d):
    """It is not the forward that is its own, but what that calls."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight / weight.norm(), bias)


def conv(bias: bool = True, channels: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, 4, 3, padding=1, bias=bias)


def chain(bias: bool = False, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(conv(bias), norm(4), nn.ReLU())


def tied_biases() -> nn.Module:
    net = nn.Sequential(conv(), nn.ReLU(), conv(channels=4))
    net[2].bias = net[0].bias
    return net


def biases_in_one_place() -> nn.Module:
    net = nn.Sequential(conv(), nn.ReLU(), conv(channels=4))
    net[2].bias = nn.Parameter(net[0].bias.detach())
    return net


def frozen_bias() -> nn.Module:
    net = nn.Sequential(conv(), nn.ReLU())
    net[0].bias.requires_grad_(False)
    return net


def computed_bias() -> nn.Module:
    net = nn.Sequential(conv(), nn.ReLU())
    parametrize.register_parametrization(net[0], "bias", Absolute())
    return net


def hooked(at: int, hook: str, bias: bool) -> nn.Module:
    net = chain(bias)
    if hook == "before":
        net[at].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    else:
        net[at].register_forward_hook(lambda module, args, output: 2 * output + 1)
    return net


def frozen_norm() -> nn.Module:
    net = chain()
    net[1].requires_grad_(False)
    return net


def shared_statistics() -> nn.Module:
    net = nn.Sequential(*chain(), conv(False, 4), nn.BatchNorm2d(4))
    net[4].running_mean = net[1].running_mean
    return net


def hooked_root() -> nn.Module:
    net = chain()
    net.register_forward_hook(lambda net, args, output: output + net[1].running_mean.view(1, -1, 1, 1))
    return net


def listed() -> nn.Module:
    net = Body(lambda net, x: net.conv(x) * net.held[0].mean() if x.sum() > -1e9 else x, conv=conv())
    net.held = [net.conv.weight]
    return net


def replaced() -> nn.Module:
    net = nn.Sequential(conv())
    net[0].forward = lambda x, own=net[0]: 2 * nn.Conv2d.forward(own, x)
    return net


NO_BATCH: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a bias of two layers": (tied_biases, "its bias is also"),
    "two biases in one place": (biases_in_one_place, "its bias is also"),
    "a frozen bias": (frozen_bias, "its bias is frozen"),
    "a computed bias": (computed_bias, "its bias is computed"),
    "a hook before": (lambda: hooked(0, "before", True), "its hooks"),
    "a hook behind": (lambda: hooked(0, "behind", True), "its hooks"),
    "a hook before the norm": (lambda: hooked(1, "before", False), "neither a bias nor a BatchNorm"),
    "a hook behind the norm": (lambda: hooked(1, "behind", False), "it has hooks"),
    "a convolution of its own": (lambda: nn.Sequential(Standardised(3, 4, 3)), "a forward of its own"),
    "a norm of its own": (lambda: chain(norm=Doubled), "its class has a forward of its own"),
    "a frozen norm": (frozen_norm, "it is frozen"),
    "shared statistics": (shared_statistics, "its running mean is also"),
    "statistics read": (
        lambda: Body(
            lambda net, x: net.bn(net.conv(x)) + net.bn.running_mean.view(1, -1, 1, 1),
            conv=conv(False),
            bn=nn.BatchNorm2d(4),
        ),
        "its running mean is read",
    ),
    "statistics taken by a function": (
        lambda: Body(
            lambda net, x: (
                net.bn(net.conv(x))
                + F.batch_norm(x[:, :1].repeat(1, 4, 1, 1), net.bn.running_mean, net.bn.running_var)
            ),
            conv=conv(False),
            bn=nn.BatchNorm2d(4),
        ),
        "its running mean is read",
    ),
    "statistics read by a hook of the net": (hooked_root, "give example inputs"),
}


def exact(net: nn.Module, norm: str, x: Tensor | None = None, **options: object) -> bool:
    """Whether the net can be expanded; if so, its fold is shown to be exact."""
    try:
        student = rk.expand(net, "dbb", norm, include=["*"], **options)
    except rk.NothingToDoError:
        return False
    x = images() if x is None else x
    disturb(student).eval()
    folded = rk.fold(student)
    with torch.no_grad():
        expected = student(x)
        assert (folded(x) - expected).abs().max() < 1e-12 * expected.abs().max()
    return True


@pytest.mark.parametrize("run", [False, True], ids=["traced", "run"])
@pytest.mark.parametrize(("make", "reason"), NO_BATCH.values(), ids=NO_BATCH)
def test_branches_with_a_batch_norm_are_refused_where_their_shift_has_no_place(
    make: Callable[[], nn.Module], reason: str, run: bool
) -> None:
    options = {"example_inputs": images()} if run else {}
    assert not exact(make(), "batch", **options)
    assert exact(build(make), "scale", **options)
    sites = rk.inspect(make(), images() if run else None)
    if not (run and make is hooked_root):  # run, the reason is that the hook reads it
        assert all(reason in (site.batch_reason or "") for site in sites)


def test_a_shift_that_its_bias_cannot_take_up_goes_into_the_batch_norm() -> None:
    net = build(lambda: chain(bias=True))
    net[0].bias.requires_grad_(False)
    before = net[0].bias.clone()
    (site,) = rk.inspect(net)
    assert (site.batch_reason, site.shift_into) == (None, "1")
    assert exact(net, "batch")
    folded = rk.fold(rk.expand(net, "dbb", "batch"))
    assert torch.equal(folded[0].bias, before)


@pytest.mark.parametrize("norm", NORMS)
def test_a_bias_that_is_read_where_nothing_can_be_traced_is_that_of_the_sum(norm: str) -> None:
    read = {
        "its bias": lambda net, x: net.conv(x) - 2 * net.conv.bias.view(1, -1, 1, 1) if x.sum() > -1e9 else x,
        "both": lambda net, x: F.conv2d(x, net.conv.weight, net.conv.bias) if x.sum() > -1e9 else x,
    }
    for run in read.values():
        assert exact(Body(run, conv=conv()), norm)


@pytest.mark.parametrize("norm", NORMS)
def test_a_parameter_in_a_list_is_refused_where_nothing_can_be_traced(norm: str) -> None:
    (site,) = rk.inspect(listed())
    assert "stands in held too" in (site.reason or "")
    assert not exact(listed(), norm)
    (site,) = rk.inspect(listed(), images())
    assert site.reason == "its weight or bias is read outside its own forward"


@pytest.mark.parametrize("norm", NORMS)
def test_a_forward_that_was_replaced_is_refused(norm: str) -> None:
    assert not exact(replaced(), norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (lambda: Body(lambda net, x: net.conv(input=x), conv=conv()), (2, 3, 9, 9)),
        (lambda: Body(lambda net, x: net.fc(input=x), fc=nn.Linear(3, 4)), (2, 3)),
        (lambda: nn.Sequential(conv()), (3, 9, 9)),
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular")), (3, 9)),
        (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3, 2, 1)), (3, 5, 5)),
        (lambda: nn.Sequential(nn.ConvTranspose3d(3, 4, 2)), (3, 4, 4, 4)),
        (lambda: nn.Sequential(nn.Linear(3, 4)), (3,)),
        (lambda: nn.Sequential(nn.Linear(3, 4)), (2, 5, 3)),
    ],
    ids=["keyword", "Linear, keyword", "Conv2d", "circular", "transposed", "transposed 3d", "vector", "rows"],
)
def test_inputs_without_a_batch_and_by_keyword(
    net: Callable[[], nn.Module], shape: tuple[int, ...], norm: str
) -> None:
    x = torch.randn(shape)
    assert exact(net(), norm, x)
    assert norm != "scale" or exact(net(), norm, x, calibration=[x, 2 * x])


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, bias=False), nn.BatchNorm1d(4)), (3, 6)),
        (lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)), (2, 4, 3)),
    ],
    ids=["no batch", "rows"],
)
def test_a_batch_norm_of_another_axis_takes_up_no_shift(
    net: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    student = rk.expand(net(), "dbb", "batch", include=["*"]).eval()
    with pytest.raises(rk.InputError, match="its channels elsewhere"):
        student(torch.randn(shape))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: nn.Conv2d(3, 4, 3, device="meta"), "meta device"),
        (lambda: nn.Conv2d(0, 4, 3), "no elements"),
        (lambda: nn.ConvTranspose2d(3, 0, 3), "no elements"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_values(layer: Callable[[], nn.Module], reason: str) -> None:
    (site,) = rk.inspect(nn.Sequential(layer()))
    assert reason in (site.reason or "")


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (lambda: hooked(0, "behind", True)[:1], "forward hooks"),
        (computed_bias, "its bias is computed"),
        (frozen_bias, "its bias is frozen"),
        (tied_biases, "its bias is also"),
        (lambda: nn.Sequential(Standardised(3, 4, 3)), "a forward of its own"),
    ],
)
def test_no_batch_norm_is_put_back_where_it_would_not_fold(net: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(rk.NothingToDoError, match=reason):
        rk.restore_bn(net(), [images()])


def test_a_restored_batch_norm_folds_behind_a_pre_hook() -> None:
    net = nn.Sequential(conv())
    net[0].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    x = images()
    student = disturb(rk.restore_bn(net, [x])).eval()
    torch.testing.assert_close(rk.fold(student)(x), student(x), rtol=1e-12, atol=1e-12)


def test_a_restored_batch_norm_needs_a_batch() -> None:
    with pytest.raises(rk.InputError, match="without a batch"):
        rk.restore_bn(nn.Sequential(conv()), [images()[0]])


def test_calibration_on_which_the_model_does_not_run_is_named() -> None:
    with pytest.raises(rk.InputError, match="does not run on the calibration data"):
        rk.restore_bn(nn.Sequential(conv()), [images(), torch.randn(2, 5, 9, 9)])
