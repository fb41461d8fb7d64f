"""What one architecture has to show, and the numbers by which it is judged."""

from __future__ import annotations

import copy
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.zoo.cases import Case
from reparam_kit import NothingToDoError, expand, fold, inspect
from reparam_kit.algebra import Expanded
from reparam_kit.sites import Site
from reparam_kit.sites.find_flow import observe
from reparam_kit.sites.find_fx import trace

FLOAT64 = 1e-12
"""Largest relative distance between expanded and folded net in float64. Beyond it, a net is only let off, and listed,
if one rounding of its input moves the plain net, which was never expanded, by more."""
FLOAT32 = 2.0
"""Largest distance of the folded float32 net from the float64 truth, in units of the expanded float32 net's own."""
WIDE = 256
"""Linear layers with more inputs are left alone: a chain multiplied out grows with the cube of the width."""
QUICK = 30.0
"""Seconds of computing up to which everything else may have taken for ``norm="batch"`` to be judged too."""


@dataclass
class Verdict:
    """What was found and measured; ``faults`` holds what is wrong, ``notes`` what a reader has to know, a line each."""

    title: str
    size: tuple[int, ...] = ()
    parameters: int = 0
    convolutions: int = 0
    sites: int = 0
    linear: int = 0
    finders: str = ""
    left_out: Counter[str] = field(default_factory=Counter)
    scale64: float | None = None
    scale32: float | None = None
    batch_sites: int | None = None
    batch64: float | None = None
    operators: str = ""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def judge(case: Case, limit: int | None) -> Verdict | None:
    """Build the architecture and measure it; None where it has more than ``limit`` parameters."""
    start = time.process_time()
    torch.manual_seed(0)
    net = randomise(case.build()).eval()
    verdict = Verdict(case.title, case.size, sum(parameter.numel() for parameter in net.parameters()))
    if limit is not None and verdict.parameters > limit:
        return None
    x = case.example_inputs()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        names = find(verdict, net, x)
        if names:
            scale(verdict, net, x, names)
            if time.process_time() - start < QUICK:
                batch(verdict, net, x, names)
    verdict.seconds = time.process_time() - start
    return verdict


@torch.no_grad()
def randomise(net: nn.Module) -> nn.Module:
    """Statistics and weights as a trained net has them: no BatchNorm is the identity, and no branch is shut off.

    Some nets start with a last layer of zeros, with residual branches scaled by a millionth, or with equal weights in
    many layers, which an exporter would store once.
    """
    for parameter in net.parameters():
        size = parameter.abs().max()
        nn.init.normal_(noise := torch.empty_like(parameter))
        parameter.add_(0.1 * noise if size < 0.01 else 0.02 * size * noise)
    for module in net.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.5, 2)
    return net


def disturb(student: nn.Module) -> nn.Module:
    """Move every branch, as training does: what starts at zero by a tenth, the rest by a tenth of its own size."""
    for expanded in student.modules():
        for branch in expanded.branches if isinstance(expanded, Expanded) else ():
            for parameter in branch.parameters():
                size = parameter.square().mean().sqrt()
                parameter.add_(0.1 * torch.where(size > 0, size, 1) * torch.randn_like(parameter))
            for norm in branch.modules():
                if isinstance(norm, _BatchNorm):
                    norm.running_mean.normal_(std=0.1)
                    norm.running_var.uniform_(0.5, 2)
    return student


def find(verdict: Verdict, net: nn.Module, x: Tensor) -> list[str]:
    """Every convolution is answered for, both finders agree, and no convolution runs without being known.

    Returns the names of the layers to expand.
    """
    sites = inspect(net, x)
    convolutions = [site for site in sites if "Conv" in site.kind or site.kind == "functional"]
    verdict.convolutions = len(convolutions)
    chosen = [
        site
        for site in sites
        if site.reason is None and (site in convolutions or site.geometry.in_channels <= WIDE)
    ]
    verdict.sites = sum(site in convolutions for site in chosen)
    verdict.linear = len(chosen) - verdict.sites
    verdict.left_out = Counter(_general(site) for site in convolutions if site.reason is not None)
    modules = sum(isinstance(module, _ConvNd) for module in net.modules())
    if modules != sum(site.kind != "functional" for site in convolutions):
        verdict.faults.append(f"{modules} convolution modules, {len(convolutions)} answered for")
    for site in sites:
        if site.reason is None and not site.calls:
            verdict.faults.append(f"false site: {site.name} never runs")
    with _Count() as count:
        net(x)
    known = sum(1 if site.kind == "functional" else site.calls or 0 for site in convolutions)
    if count.convolutions != known:
        verdict.faults.append(f"{count.convolutions} convolutions run, {known} are known")
    traced, run = trace(net), observe(net, x)
    if isinstance(traced, str):
        verdict.finders = "run"
        return [site.name for site in chosen]
    verdict.finders = "both"
    for what, a, b in (
        ("calls", {k: v for k, v in traced.calls.items() if v is not None}, run.calls),
        ("BatchNorms", traced.batch_norms, run.batch_norms),
        ("functional convolutions", traced.functional, run.functional),
    ):
        differing = {key for key in a if a[key] != b.get(key)} | (
            b.keys() - a.keys() if what != "calls" else set()
        )
        if differing:
            names = {module: name for name, module in net.named_modules()}
            verdict.faults.append(
                f"finders differ in {what}: {', '.join(str(names.get(k, k)) for k in differing)}"
            )
    return [site.name for site in chosen]


def scale(verdict: Verdict, net: nn.Module, x: Tensor, names: list[str]) -> None:
    """Every layer expanded and moved: the fold is exact, in float32 as near to the truth, and the same graph."""
    student = disturb(expand(net, "dbb", "scale", include=names, example_inputs=x)).eval()
    folded = fold(student)
    precise = copy.deepcopy(student).double()
    x64 = x.double()
    of_fold = outputs(fold(precise), x64)
    truth = outputs(one_by_one(precise), x64)
    verdict.scale64 = distance(of_fold, truth)
    judge_float64(verdict, "scale", verdict.scale64, net, x64)
    moved = distance(outputs(net, x), truth)
    if not 1e-6 < moved < 1e6:
        verdict.faults.append(f"the branches moved the output by {moved:.1e}, which proves nothing")
    own, of_folded = distance(outputs(student, x), truth), distance(outputs(folded, x), truth)
    verdict.scale32 = of_folded / own
    if not of_folded <= FLOAT32 * own + 1e-7:
        verdict.faults.append(f"float32: folded {of_folded:.1e} from the truth, expanded {own:.1e}")
    compare_operators(verdict, net, folded, x)


def one_by_one(student: nn.Module) -> nn.Module:
    """Have every branch convolved, in place of their sum: what ``norm="batch"`` does, with the scales behind.

    Layers with a forward of their own are left as they are.
    """
    for expanded in student.modules():
        if isinstance(expanded, Expanded) and type(expanded.base).__module__.startswith("torch.nn"):
            expanded.norm = "batch"
            for branch in expanded.branches:
                branch.register_forward_hook(
                    lambda branch, args, out: out * branch.scale.reshape(-1, *[1] * (out.dim() - 2))
                )
    return student


def batch(verdict: Verdict, net: nn.Module, x: Tensor, names: list[str]) -> None:
    """The same with a BatchNorm behind each factor, where there is a home for the shift."""
    net, x = net.double(), x.double()
    try:
        student = expand(net, "dbb", "batch", include=names, example_inputs=x)
    except NothingToDoError:
        verdict.batch_sites = 0
        return
    disturb(student).eval()
    verdict.batch_sites = sum(isinstance(module, Expanded) for module in student.modules())
    verdict.batch64 = distance(outputs(fold(student), x), outputs(student, x))
    judge_float64(verdict, "batch", verdict.batch64, net, x)


def judge_float64(verdict: Verdict, norm: str, error: float, net: nn.Module, x: Tensor) -> None:
    """A fault, unless the net is so sensitive that a rounding anywhere comes to as much."""
    if error < FLOAT64:
        return
    plain = copy.deepcopy(net).double()
    rounding = distance(outputs(plain, x * (1 + 2**-52)), outputs(plain, x))
    text = f'norm="{norm}": expanded and folded differ by {error:.1e} in float64'
    if error < rounding:
        verdict.notes.append(f"{text}; one rounding of the input moves the plain net by {rounding:.1e}")
    else:
        verdict.faults.append(text)


def compare_operators(verdict: Verdict, net: nn.Module, folded: nn.Module, x: Tensor) -> None:
    """Export both and compare how many of each operator there are."""
    try:
        before = operators(net, x)
    except Exception as error:  # not every architecture can be exported; that is no fault of the fold
        verdict.operators = f"no export: {type(error).__name__}"
        return
    after = operators(folded, x)
    verdict.operators = f"{before.total()} = {after.total()}" if before == after else f"{before} != {after}"
    if before != after:
        verdict.faults.append(f"ONNX operators: {before - after} became {after - before}")


def operators(net: nn.Module, x: Tensor) -> Counter[str]:
    """Operators of the exported net; by the dynamo exporter where the older one cannot."""
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "net.onnx")
        try:
            torch.onnx.export(net, (x,), path, dynamo=False)
        except Exception:  # it traces, and raises whatever the forward does
            torch.onnx.export(net, (x,), path, dynamo=True, verbose=False)
        graph = onnx.load(path, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def outputs(net: nn.Module, x: Tensor) -> Tensor:
    """All floating-point outputs in a row, in float64."""
    leaves = [leaf for leaf in tree_leaves(net(x)) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return torch.cat([leaf.double().flatten() for leaf in leaves])


def distance(a: Tensor, truth: Tensor) -> float:
    """Euclidean, relative to the truth."""
    return float((a - truth).norm() / truth.norm())


def _general(site: Site) -> str:
    """The reason without the names in it."""
    reason = site.reason or ""
    for start in ("its weight is also", "functional call"):
        if reason.startswith(start):
            return {"functional call": start}.get(start, "its weight is also another module's")
    return reason


class _Count(TorchDispatchMode):
    """Convolutions that really run, whoever calls them."""

    convolutions = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.convolutions += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))
