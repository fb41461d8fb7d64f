"""Between expand and fold: what users do to a model ends in the right fold, or in one line that says why not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from nets import build, disturb
from students import ALL, Whole, X, base_of, distance, student
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import reparam_kit as rk
from reparam_kit.algebra import NORMS, Expanded
from reparam_kit.restoration import Restored

WEIGHT: dict[str, Callable[[nn.Module], object]] = {
    "spectral norm": parametrizations.spectral_norm,
    "weight norm": parametrizations.weight_norm,
    "older spectral norm": nn.utils.spectral_norm,
    "mask": lambda module: prune.l1_unstructured(module, "weight", amount=0.5),
    "parametrization": lambda module: parametrize.register_parametrization(
        module, "weight", nn.Tanh(), unsafe=True
    ),
}


@pytest.mark.parametrize("norm", ALL)
@pytest.mark.parametrize("way", WEIGHT.values(), ids=WEIGHT)
def test_a_weight_that_is_computed_since_is_refused(way: Callable[[nn.Module], object], norm: str) -> None:
    net = student(norm)
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d):
            way(module)
    with pytest.raises(rk.InputError, match="norm, a mask or a parametrization"):
        rk.fold(net)
    if norm != "restored":
        with pytest.raises(rk.InputError, match="norm, a mask or a parametrization"):
            net(X)


def double(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return 2 * output + 1


def before(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> tuple[object, ...]:
    return (args[0] - 1,), kwargs


@pytest.mark.parametrize("norm", ALL)
def test_hooks_of_the_layer_go_with_the_fold_in_their_order(norm: str) -> None:
    net = student(norm)
    net.conv.register_forward_hook(double)
    net.conv.register_forward_hook(lambda module, args, output: output.relu())
    net.conv.register_forward_pre_hook(before, with_kwargs=True)
    net.conv.register_forward_pre_hook(lambda module, args: (args[0].relu(),))
    assert distance(rk.fold(net)(X), net(X)) < 1e-12


@pytest.mark.parametrize("norm", ALL)
@pytest.mark.parametrize("hook", ["before", "behind"])
def test_hooks_within_the_layer_are_exact_or_refused(norm: str, hook: str) -> None:
    net = student(norm)
    base = base_of(net)
    if hook == "before":
        base.register_forward_pre_hook(before, with_kwargs=True)
    else:
        base.register_forward_hook(double)
    if norm == "batch" or (norm == "restored" and hook == "behind"):
        with pytest.raises(rk.InputError, match=r"hooks.*put them on the layer itself"):
            rk.fold(net)
    else:
        assert distance(rk.fold(net)(X), net(X)) < 1e-12


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "BatchNorm removed": lambda net: setattr(net, "bn", nn.Identity()),
    "BatchNorm of another kind": lambda net: setattr(net, "bn", nn.GroupNorm(1, 2)),
    "BatchNorm with a hook": lambda net: net.bn.register_forward_pre_hook(
        lambda module, args: (2 * args[0],)
    ),
    "statistics shared": lambda net: net.bn.register_buffer("running_mean", net.extra),
    "bias tied": lambda net: setattr(net, "more", nn.ParameterList([net.conv.base.bias])),
    "bias gone": lambda net: setattr(net.conv.base, "bias", None),
    "bias computed": lambda net: parametrize.register_parametrization(
        net.conv.base, "bias", nn.Tanh(), unsafe=True
    ),
    "hook before the BatchNorm": lambda net: net.head[0].register_forward_hook(double),
    "branch hooked": lambda net: net.conv.branches[0].register_forward_hook(
        lambda module, args, output: -output
    ),
    "branch without norm": lambda net: net.conv.branches[0].norms.__setitem__(0, nn.Identity()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_takes_up_a_shift_must_be_there_still(change: Callable[[nn.Module], object]) -> None:
    net = student("batch")
    net.register_buffer("extra", torch.zeros(2, dtype=torch.float64))
    change(net)
    with pytest.raises(rk.InputError, match="cannot be folded"):
        rk.fold(net)


class Parted(nn.Module):
    """A convolution whose BatchNorm stands elsewhere, with a module between that does nothing."""

    def __init__(self, dynamic: bool = False) -> None:
        super().__init__()
        self.block = Joined()
        self.dynamic = dynamic

    def forward(self, x: Tensor) -> Tensor:
        if self.dynamic and x.sum() > 1e9:
            return x
        return self.block(x)


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Identity())
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.head(x)).relu()


def own_forward(module: nn.Module) -> None:
    module.forward = lambda x: 2 * x  # type: ignore[method-assign]


BETWEEN: dict[str, Callable[[nn.Module], object]] = {
    "exchanged": lambda block: setattr(block.head, "1", nn.Tanh()),
    "exchanged for a dropout": lambda block: setattr(block.head, "1", nn.Dropout()),
    "hook": lambda block: block.head[1].register_forward_hook(double),
    "hook before": lambda block: block.head[1].register_forward_pre_hook(lambda module, args: (2 * args[0],)),
    "forward": lambda block: own_forward(block.head[1]),
    "appended": lambda block: block.head.append(nn.ReLU()),
    "hook of the container": lambda block: block.head.register_forward_hook(double),
    "forward of the container": lambda block: setattr(
        block.head, "forward", lambda x: 2 * block.head[1](block.head[0](x))
    ),
    "container exchanged": lambda block: setattr(
        block, "head", nn.Sequential(*block.head, nn.Conv2d(4, 4, 1).double())
    ),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("change", BETWEEN.values(), ids=BETWEEN)
def test_what_comes_between_a_layer_and_its_batch_norm_is_refused(
    change: Callable[[nn.Module], object], dynamic: bool
) -> None:
    net = disturb(rk.expand(build(lambda: Parted(dynamic)).double(), "dbb", "batch", example_inputs=X)).eval()
    assert net.block.head[0].shift_into == "block.bn"
    assert distance(rk.fold(net)(X), net(X)) < 1e-12
    change(net.block)
    with pytest.raises(
        rk.InputError, match=r"block\.head\.0 cannot be folded, .*between it and the BatchNorm block\.bn"
    ):
        rk.fold(net)


class Siamese(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) - self.net(2 * x)


def test_a_student_that_runs_twice_in_what_trains_it_folds() -> None:
    net = Siamese(disturb(rk.expand(build(Parted).double(), "dbb", "batch")).eval())
    assert distance(rk.fold(net)(X), net(X)) < 1e-12


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("given", NORMS)
def test_a_norm_that_is_set_by_hand_is_refused(norm: str, given: str) -> None:
    net = student(norm)
    net.conv.norm = given
    if given == norm:
        assert distance(rk.fold(net)(X), net(X)) < 1e-12
        return
    with pytest.raises(rk.InputError, match=f"conv cannot be folded: .*norm='{given}'"):
        rk.fold(net)


@pytest.mark.parametrize("norm", ALL)
def test_a_weight_tied_since_is_refused(norm: str) -> None:
    net = student(norm)
    net.more = nn.ParameterList([base_of(net).weight])
    with pytest.raises(rk.InputError, match=r"its weight has been made that of more\.0 too"):
        rk.fold(net)


@pytest.mark.parametrize("norm", ALL)
def test_what_changes_nothing_is_no_matter(norm: str) -> None:
    net = student(norm)
    expected = net(X)
    folded = rk.fold(
        nn.SyncBatchNorm.convert_sync_batchnorm(net).requires_grad_(False).half().double().train()
    )
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in Whole().named_modules()]
    assert distance(folded.eval()(X), expected) < 1e-2


@pytest.mark.parametrize("norm", NORMS)
def test_a_part_is_folded_alone_as_in_the_whole(norm: str) -> None:
    net = student(norm)
    part = rk.fold(net.backbone)
    assert distance(part(X), net.backbone(X)) < 1e-12
    whole = rk.fold(net).backbone.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in part.state_dict().items())
    wrapped = nn.ModuleDict({"teacher": nn.Identity(), "student": nn.Sequential(net.backbone)})
    assert distance(rk.fold(wrapped)["student"](X), net.backbone(X)) < 1e-12


@pytest.mark.parametrize("part", ["head", "head.0"])
def test_a_part_whose_batch_norm_lies_outside_is_refused(part: str) -> None:
    net = student("batch")
    with pytest.raises(rk.InputError, match=r"the BatchNorm bn of the model that was .* not in this part"):
        rk.fold(net.get_submodule(part))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "DataParallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "traced by fx": torch.fx.symbolic_trace,
}


@pytest.mark.parametrize("norm", ALL)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrapped_models_fold(wrap: Callable[[nn.Module], nn.Module], norm: str) -> None:
    net = student(norm)
    wrapped = wrap(net)
    kinds = {type(module) for module in wrapped.modules()}
    assert {Restored if norm == "restored" else Expanded} <= kinds
    folded = rk.fold(wrapped)
    assert not {Restored, Expanded} & {type(module) for module in folded.modules()}
    assert distance(folded(X), net(X)) < 1e-12


@pytest.mark.parametrize("norm", NORMS)
def test_layers_compiled_in_place_fold(norm: str) -> None:
    net = student(norm)
    expected = net(X)
    for module in net.modules():
        module.compile(backend="eager")
    assert distance(rk.fold(net)(X), expected) < 1e-12


@pytest.mark.parametrize("norm", ALL)
@pytest.mark.filterwarnings("ignore:`torch.jit.trace.*` is deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_by_jit(norm: str) -> None:
    net = student(norm)
    if norm in ("scale", "none"):  # torch.func.functional_call is not for it
        with pytest.raises(rk.InputError, match=r"torch\.jit cannot trace a sum of branches"):
            torch.jit.trace(net, X)
    else:
        assert distance(torch.jit.trace(net, X)(X), net(X)) < 1e-12
