"""A restored BatchNorm: nothing changes in eval mode, it trains, and folding leaves no trace of it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nets import Dynamic, Plain, Residual, Shared, build, disturb, images
from onnx_text import SMALL, SMALL_WEIGHTS, load
from torch import Tensor, nn

import reparam_kit as rk
from reparam_kit.algebra import NORMS, Expanded
from reparam_kit.restoration import Restored


class Deployed(nn.Module):
    """Every geometry in a row, as an export leaves them: biases, and no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.groups = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, padding_mode="reflect")
        self.depthwise = nn.Conv2d(8, 8, (3, 5), padding="same", groups=8)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2)
        self.twice = nn.Conv2d(6, 6, 1)
        self.steps = [self.twice, self.twice]
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(self.depthwise(self.groups(self.stem(x).relu())).relu()))
        for step in self.steps:
            x = torch.relu(step(x))
        return self.head(x.mean((2, 3)))


CONVOLUTIONS = ["stem", "groups", "depthwise", "up", "twice"]


def volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.ConvTranspose3d(2, 3, 2))


def line() -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 5), nn.ReLU(), nn.ConvTranspose1d(4, 4, 3))


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "deployed": (Deployed, lambda: images(4)),
    "volumes": (volumes, lambda: torch.randn(2, 1, 5, 6, 7)),
    "line": (line, lambda: images(4)),
    "dynamic": (Dynamic, lambda: images(4)),
    "alone": (lambda: nn.Conv2d(3, 4, 3), lambda: images(4)),
}


def restored(model: nn.Module) -> list[str]:
    return [module.site for module in model.modules() if isinstance(module, Restored)]


def distance(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", NETS)
def test_nothing_changes_in_eval_mode(kind: str, training: bool) -> None:
    make, data = NETS[kind]
    model, x = make().train(training), data()
    before = copy.deepcopy(model.state_dict())
    student = rk.restore_bn(model, [x, data()])
    assert {module.training for module in student.modules()} == {training}
    folded = rk.fold(student)
    assert type(folded) is type(model)
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in model.named_modules()]
    assert list(folded.state_dict()) == list(before)
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)
        # A bias lies within the rounding of the mean that is taken off and added again.
        torch.testing.assert_close(
            folded.state_dict()[name], value, rtol=0, atol=1e-6 if "bias" in name else 0
        )
    with torch.no_grad():
        expected = model.eval()(x)
        assert distance(student.eval()(x), expected) < 3e-6
        assert distance(folded.eval()(x), expected) < 1e-6


@pytest.mark.parametrize("block", [None, "dbb", "repvgg", "conv(1) >> conv(k)"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", NETS)
def test_trained_fold_is_exact_in_float64(kind: str, norm: str, block: str | None) -> None:
    make, data = NETS[kind]
    model, x = make().double(), data().double()
    student = rk.restore_bn(model, [x])
    if block is not None:
        student = rk.expand(student, block, norm, calibration=[x])
    student.train()(x).square().sum().backward()  # moves the running statistics
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []
    disturb(student)
    folded = rk.fold(student)
    assert type(folded) is type(model)
    assert list(folded.state_dict()) == list(model.state_dict())
    assert {type(module) for module in folded.modules()} == {type(module) for module in model.modules()}
    with torch.no_grad():
        expected = student.eval()(x)
        assert distance(folded.eval()(x), expected) < 1e-12
        assert distance(model.eval()(x), expected) > 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_expand_sees_a_convolution_with_a_batch_norm_of_its_own(norm: str) -> None:
    student = rk.restore_bn(Deployed(), [images()])
    sites = {site.name: site.batch_norm for site in rk.inspect(student)}
    assert sites["stem.conv"] == "stem.norm"
    assert sites["up.conv"] == "up.norm"
    assert sites["twice.conv"] is None  # called twice, so is its BatchNorm
    student = rk.expand(student, "repvgg", norm)
    assert {module.site for module in student.modules() if isinstance(module, Expanded)} >= {
        "stem.conv",
        "up.conv",
    }


def test_the_statistics_are_those_of_all_batches_together() -> None:
    model = Deployed()
    batches = [5 + images(3), images(1) - 2, images(4)]
    student = rk.restore_bn(model, iter(batches))
    out = model.stem(torch.cat(batches)).double()
    norm = student.stem.norm
    torch.testing.assert_close(norm.running_mean.double(), out.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        norm.running_var.double(), out.var((0, 2, 3), unbiased=False), rtol=2e-6, atol=0
    )
    assert torch.equal(norm.bias, norm.running_mean)


def test_train_mode_starts_from_the_same_function_on_the_calibration_data() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), images(8)
    student = rk.restore_bn(model, [x]).train()
    torch.testing.assert_close(student(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 1e4])
def test_dead_channels_stay_exact_and_finite(constant: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = constant
        model[0].weight[2] *= 1e-12
    x = images()
    student = rk.restore_bn(model, [x]).eval()
    norm = student[0].norm
    assert norm.running_var[1] < 1e-10
    with torch.no_grad():
        assert torch.equal(student[0](x)[:, 1], torch.full_like(student[0](x)[:, 1], constant))
        torch.testing.assert_close(student(x), model(x), rtol=1e-5, atol=1e-5 * max(1, constant / 100))
    folded = rk.fold(student)
    assert torch.equal(folded[0].weight, model[0].weight)
    assert torch.equal(folded[0].bias[1], model[0].bias[1])
    student.train()(x).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


def test_float32_is_rounded_once() -> None:
    model, x = Deployed(), images()
    student = disturb(rk.expand(rk.restore_bn(model, [x])))
    exact = rk.fold(copy.deepcopy(student).double())
    for name, value in rk.fold(student).state_dict().items():
        assert torch.equal(value, exact.state_dict()[name].float()), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_statistics_in_float32(dtype: torch.dtype) -> None:
    model, x = Deployed().to(dtype).eval(), images(4).to(dtype)
    student = rk.restore_bn(model, [x])
    assert student.stem.norm.running_var.dtype is torch.float32
    out = student(x)
    assert out.dtype is dtype
    torch.testing.assert_close(out, model(x), rtol=0.05, atol=0.05)
    student.train()(x).sum().backward()
    folded = rk.fold(student)
    assert {value.dtype for value in folded.state_dict().values()} == {dtype}


def test_every_reference_leads_to_the_stand_in_and_back() -> None:
    student = rk.restore_bn(build(Shared), [images()])
    assert restored(student) == ["twice", "first"]
    assert student.alias is student.first is student.steps[0]
    folded = rk.fold(student)
    assert folded.steps[0] is folded.alias is folded.first
    assert type(folded.first) is nn.Conv2d


def test_hooks_and_attributes_stay() -> None:
    model = Deployed()
    seen: list[str] = []
    model.stem.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    model.stem.note = "deployed"
    student = rk.restore_bn(model, [images()])
    assert (student.stem.note, student.stem.stride) == ("deployed", (2, 2))
    seen.clear()
    student(images())
    folded = rk.fold(student)
    folded(images())
    assert folded.stem.note == "deployed"
    assert seen == ["Conv2d", "Conv2d"]
    assert [len(part.stem._forward_hooks) for part in (model, folded)] == [1, 1]


def test_a_restored_model_copies_pickles_reloads_and_goes_on_after_a_fold() -> None:
    model, x = Deployed(), images()
    student = disturb(rk.expand(rk.restore_bn(model, [x]))).eval()
    again = rk.expand(rk.restore_bn(model, [images()])).eval()
    again.load_state_dict(student.state_dict())
    before = copy.deepcopy(student.state_dict())
    rk.fold(student)
    assert all(torch.equal(student.state_dict()[name], value) for name, value in before.items())
    for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student)), again):
        assert torch.equal(other(x), student(x))
    assert restored(rk.restore_bn(rk.fold(student), [x])) == restored(student)


def test_sync_batch_norm_folds_too() -> None:
    student = disturb(rk.restore_bn(Deployed().double(), [images().double()]))
    x = images().double()
    expected = rk.fold(student).eval()(x)
    assert torch.equal(rk.fold(nn.SyncBatchNorm.convert_sync_batchnorm(student)).eval()(x), expected)


@pytest.mark.parametrize("block", [None, "dbb"])
def test_one_module_at_a_time_as_timm_fuses(block: str | None) -> None:
    student = rk.restore_bn(Deployed().double(), [images().double()])
    student = disturb(student if block is None else rk.expand(student, block, "batch"))
    for name, fused in rk.fold(student).named_children():
        if name in CONVOLUTIONS:
            alone = student.get_submodule(name).fuse()
            assert torch.equal(alone.weight, fused.weight)
            assert torch.equal(alone.bias, fused.bias)


def test_a_model_from_onnx(tmp_path: Path) -> None:
    model = load(
        tmp_path / "a.onnx",
        SMALL.replace("b = BatchNormalization (c, scale, shift, mean, var)", "b = Relu (c)"),
        SMALL_WEIGHTS,
    )
    x = torch.randn(2, 3, 8, 8)
    student = rk.restore_bn(model, [x])
    assert len(restored(student)) == 1
    with pytest.raises(rk.InputError):
        rk.save(student, tmp_path / "b.onnx")
    rk.save(rk.fold(disturb(rk.expand(student))), tmp_path / "b.onnx")
    assert rk.diff(tmp_path / "a.onnx", tmp_path / "b.onnx").same_graph
    assert student.meta["onnx"] is not None


class Own(nn.Conv2d):
    """A convolution with a forward of its own, which a factor of its weight may not pass."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


def half_frozen() -> nn.Module:
    conv = nn.Conv2d(3, 3, 3)
    conv.bias.requires_grad_(False)
    return conv


def tied() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    net[1].bias = net[0].bias
    return net


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Lazy(nn.Module):
    """It is neither traced nor, while its head has no shape, run to find its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.head = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x) if x.numel() < 1 else x)


class Branching(nn.Module):
    """Symbolic tracing gives up, so only running it tells that the BatchNorm belongs to the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x if x.sum() > 0 else -x))


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (lambda: nn.Linear(17, 4), "the model has no convolution"),
        (lambda: nn.Conv2d(3, 4, 3, bias=False), "no bias to take up the shift"),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), "it has a BatchNorm of its own"),
        (Branching, "it has a BatchNorm of its own"),
        (lambda: Own(3, 4, 3), "a forward of its own"),
        (lambda: nn.Conv2d(3, 4, 3).requires_grad_(False), "frozen"),
        (half_frozen, "its bias is frozen"),
        (tied, "its bias is also 1.bias"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "parametri[sz]ation"),
        (lambda: rk.expand(nn.Conv2d(3, 4, 3)), "expanded already"),
        (lambda: rk.restore_bn(nn.Conv2d(3, 4, 3), [images()]), "it has a BatchNorm of its own"),
        (Residual, "no bias"),
        (Unused, "never run"),
        (Lazy, "1 x the calibration data does not reach it"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_is_left_without(net: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(rk.NothingToDoError, match=reason):
        rk.restore_bn(net(), [images()])


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, CONVOLUTIONS),
        ({"include": ["stem", "tw*"]}, ["stem", "twice"]),
        ({"exclude": ["stem", "up"]}, ["groups", "depthwise", "twice"]),
    ],
)
def test_which_convolutions_are_restored(options: dict[str, list[str]], names: list[str]) -> None:
    assert restored(rk.restore_bn(Deployed(), [images()], **options)) == names


def test_only_those_that_lost_their_batch_norm() -> None:
    assert restored(rk.restore_bn(build(Plain), [(images(),)])) == ["even", "flat", "point"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([images()], {"include": ["stm"]}), "include='stm' matches no layer; did you mean 'stem'"),
        (([images()], {"exclude": ["stm"]}), "exclude='stm' matches no layer"),
        (([], {}), "no batch"),
        (([images(), images() * float("inf")], {}), "the output of 'stem' .* is not finite"),
    ],
)
def test_a_wrong_argument_is_named(arguments: tuple[list[Tensor], dict[str, object]], message: str) -> None:
    data, options = arguments
    model = Deployed()
    with pytest.raises(rk.InputError, match=message):
        rk.restore_bn(model, data, **options)
    assert not any(part._forward_hooks for part in model.modules())
