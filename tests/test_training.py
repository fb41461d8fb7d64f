"""What training code does to a model, done to an expanded one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from nets import Plain, Upsampling, build, disturb, images
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import reparam_kit as rk
from reparam_kit.algebra import NORMS, Expanded, to_weight


def train(model: nn.Module, x: Tensor, steps: int = 2) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).float().square().mean().backward()
        optimizer.step()


def fold_error(student: nn.Module) -> float:
    """Float64 error of the fold, relative to the largest output."""
    student = copy.deepcopy(student).double().eval()
    x = images().double()
    with torch.no_grad():
        expected = student(x)
        return float((rk.fold(student)(x) - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("norm", NORMS)
def test_distributed_data_parallel(tmp_path: Path, norm: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        student = rk.expand(build(Plain), "dbb", norm)
        alone = copy.deepcopy(student)
        train(nn.parallel.DistributedDataParallel(student), images := torch.randn(4, 3, 17, 17))
        train(alone, images)
    finally:
        dist.destroy_process_group()
    for ours, theirs in zip(student.state_dict().values(), alone.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert fold_error(student) < 1e-12


@pytest.mark.parametrize("norm", NORMS)
def test_synchronised_batch_norm(norm: str) -> None:
    net = build(Plain)
    student = nn.SyncBatchNorm.convert_sync_batchnorm(disturb(rk.expand(net, "dbb", norm)))
    norms = {type(m) for m in student.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert norms == {nn.SyncBatchNorm}
    assert fold_error(student) < 1e-12
    assert list(rk.fold(student).state_dict()) == list(net.state_dict())


# Dynamo's own, about an autograd.Function that it traces.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("norm", NORMS)
def test_compile(norm: str) -> None:
    torch.compiler.reset()
    student = disturb(rk.expand(build(Plain), "dbb", norm))
    compiled = torch.compile(copy.deepcopy(student), backend="aot_eager", fullgraph=True)
    x = images()
    torch.testing.assert_close(compiled(x), student(x), rtol=1e-4, atol=1e-4)
    train(compiled, x)
    assert fold_error(compiled._orig_mod) < 1e-12


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("norm", NORMS)
def test_compile_without_gradients(norm: str, without: Callable[[], AbstractContextManager[None]]) -> None:
    torch.compiler.reset()  # code that is compiled for nets of other tests counts against a limit
    student = disturb(rk.expand(build(Plain), "dbb", norm))
    compiled = torch.compile(copy.deepcopy(student), backend="eager", fullgraph=True)
    x = images()
    with without():
        torch.testing.assert_close(compiled(x), student(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_automatic_mixed_precision(norm: str) -> None:
    student = rk.expand(build(Plain), "dbb", norm)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train(student, images(4))
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert fold_error(student) < 1e-12


def test_exponential_moving_average() -> None:
    student = rk.expand(build(Plain))
    average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    for _ in range(3):
        train(student, images(4))
        average.update_parameters(student)
    assert fold_error(average.module) < 1e-12
    assert not torch.equal(rk.fold(average.module).point.weight, rk.fold(student).point.weight)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_layouts(dtype: torch.dtype, norm: str) -> None:
    net = build(Upsampling).to(dtype).to(memory_format=torch.channels_last)
    student = disturb(rk.expand(net, "dbb", norm))
    assert {p.dtype for p in student.parameters()} == {dtype}
    folded = rk.fold(student)
    assert folded.up.weight.dtype == dtype
    assert folded.up.weight.is_contiguous(memory_format=torch.channels_last)
    for name, module in student.named_modules():
        if isinstance(module, Expanded):
            exact = to_weight(module.base, module.multiply_out(torch.float64))
            assert torch.equal(folded.get_submodule(name).weight, exact.to(dtype))


@pytest.mark.parametrize(("size", "stride"), [(112, 2), (113, 2), (14, 3), (17, 4)])
def test_branches_are_not_given_what_their_stride_does_not_reach(size: int, stride: int) -> None:
    """Given it, oneDNN breaks the heap in the backward pass of a kernel of one tap in channels_last."""
    conv = nn.Conv2d(3, 16, 3, stride, padding=1)
    student = rk.expand(nn.Sequential(conv), "conv(k) + conv(1) + conv(1, k)", "batch")
    seen: list[tuple[int, ...]] = []
    for branch in student[0].branches:
        branch.register_forward_pre_hook(lambda branch, args: seen.append((*args[0].shape[2:], *branch.taps)))
    student(torch.zeros(1, 3, size, size))
    assert len(seen) == 2
    for height, width, *taps in seen:
        assert ((height - taps[0]) % stride, (width - taps[1]) % stride) == (0, 0)


@pytest.mark.parametrize("norm", NORMS)
def test_folding_in_the_middle_of_training_and_going_on(norm: str) -> None:
    torch.manual_seed(0)
    student = rk.expand(build(Plain), "dbb", norm)
    undisturbed = copy.deepcopy(student)
    x = images(4)
    train(student, x)
    rk.fold(student)
    train(student, x)
    train(undisturbed, x)
    train(undisturbed, x)
    assert all(map(torch.equal, student.state_dict().values(), undisturbed.state_dict().values()))


@pytest.mark.parametrize("norm", NORMS)
def test_state_dict_survives_a_file(tmp_path: Path, norm: str) -> None:
    student = disturb(rk.expand(build(Plain), "dbb", norm))
    torch.save(student.state_dict(), tmp_path / "student.pt")
    again = rk.expand(build(Plain), "dbb", norm)
    again.load_state_dict(torch.load(tmp_path / "student.pt", weights_only=True))
    assert torch.equal(again.eval()(x := images()), student.eval()(x))


def test_gradient_checkpointing() -> None:
    student = disturb(rk.expand(build(Plain)))
    x = images().requires_grad_()
    plain = torch.autograd.grad(student(x).sum(), x)[0]
    again = torch.utils.checkpoint.checkpoint(student, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.sum(), x)[0], plain)


@pytest.mark.parametrize("restored", [False, True], ids=["expanded", "restored"])
@pytest.mark.parametrize("norm", NORMS)
def test_timm_folds_it_too(norm: str, restored: bool) -> None:
    manipulate = pytest.importorskip("timm.models._manipulate", reason="timm is not installed")
    net = build(Plain).double()
    if restored:
        net = rk.restore_bn(net, [images().double()])
    student = disturb(rk.expand(net, "dbb", norm)).eval()
    folded = manipulate.reparameterize_model(student)
    assert not any(isinstance(module, Expanded) for module in folded.modules())
    x = images().double()
    torch.testing.assert_close(folded(x), student(x), rtol=1e-10, atol=1e-10)
