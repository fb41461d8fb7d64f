"""What only a GPU can show: nets expanded, trained and folded there are what they are on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from nets import NETS, build, disturb, images
from students import Whole, distance
from torch import nn

import reparam_kit as rk
from reparam_kit.algebra import NORMS, PRESETS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


class Wide(nn.Sequential):
    """Room for every preset."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 7, padding=3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 7)
        )


def gradients(net: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    net.zero_grad()
    net(x).square().mean().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", PRESETS)
def test_a_fold_is_exact(block: str, norm: str) -> None:
    net = build(Wide).double().cuda()
    x = images(4).double().cuda()
    student = rk.expand(net, block, norm)
    assert distance(student.eval()(x), net.eval()(x)) < 1e-12
    disturb(student)
    assert {p.device.type for p in student.parameters()} == {"cuda"}
    folded = rk.fold(student)
    assert {p.device.type for p in folded.parameters()} == {"cuda"}
    assert distance(folded.eval()(x), student.eval()(x)) < 1e-11


@pytest.mark.parametrize("kind", NETS)
def test_gradients_are_those_of_the_cpu(kind: type[nn.Module]) -> None:
    student = disturb(rk.expand(build(kind).double(), "dbb")).train()
    there = copy.deepcopy(student).cuda()
    x = images(4).double()
    here, found = gradients(student, x), gradients(there, x.cuda())
    assert here.keys() == found.keys()
    for name, gradient in here.items():
        torch.testing.assert_close(found[name].cpu(), gradient, rtol=1e-8, atol=1e-10)


def test_a_net_moves_between_devices_with_its_branches() -> None:
    x = images(4)
    student = disturb(rk.expand(build(Whole), "dbb")).eval()
    before = student(x)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        torch.testing.assert_close(student.cuda()(x.cuda()).cpu(), before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(student.cpu()(x), before)


@pytest.mark.parametrize("block", ["dbb", "orepa"])
def test_a_captured_step_trains_as_the_step_does(block: str) -> None:
    def made() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        student = rk.expand(build(Whole), block).cuda().train()
        return student, torch.optim.SGD(student.parameters(), lr=1e-2)

    def step(student: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=False)
        student(x).square().mean().backward()
        optimizer.step()

    x = images(4).cuda()
    eager, captured = made(), made()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(*captured)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(*captured)
    for _ in range(4):
        graph.replay()
    for _ in range(7):
        step(*eager)
    for name, weight in eager[0].state_dict().items():
        torch.testing.assert_close(captured[0].state_dict()[name], weight, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("block", ["dbb", "orepa"])
def test_autocast_to_bfloat16_trains(block: str) -> None:
    student = rk.expand(build(Whole), block).cuda().train()
    with torch.autocast("cuda", torch.bfloat16):
        loss = student(images(4).cuda()).square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
