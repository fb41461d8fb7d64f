"""Nets made at random from a grammar, and one trial: expand, move everything, fold, compare.

A net is a row of stages; a stage is what one may do with a convolution or two. ``trial(seed)`` judges one net with one
block, norm and way of asking: its fold is exact, or there is a reason. Anything else is a fault.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils._pytree import tree_leaves

import reparam_kit as rk
from reparam_kit.algebra import Foldable

CHANNELS = 4
BLOCKS = [
    *("dbb", "repvgg", "acb", "mobileone", "ecb", "expandnet", "doconv", "dilated", "orepa"),
    *("conv(k) + conv(1) >> conv(k) + avg(2)", "conv(1) >> conv(2) >> avg(2)", "2 * identity + conv(2)"),
]


class Stage(nn.Module):
    """Modules, and what is done with them and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: object) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


@dataclass
class Grammar:
    """Draws the parts of one net, of ``dims`` dimensions, in whose stages ``CHANNELS`` go in and out."""

    draw: random.Random
    dims: int = field(init=False)

    def __post_init__(self) -> None:
        self.dims = self.draw.choice([1, 2, 2, 2, 3])

    def maybe(self, chance: float = 0.5) -> bool:
        return self.draw.random() < chance

    def conv(self, bias: bool | None = None, plain: bool = False) -> nn.Module:
        """A convolution of any geometry; ``plain``: one that keeps the size."""
        draw, kinds = self.draw, (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        bias = self.maybe(0.6) if bias is None else bias
        groups = draw.choice([1, 1, 2, 4])
        kind: type[Any] = kinds[self.dims - 1]
        if self.maybe(0.15):
            kind = self._own_class(kind)
        if plain:
            size = draw.choice([1, 3, 3, 5])
            return kind(CHANNELS, CHANNELS, size, padding=size // 2, groups=groups, bias=bias)
        if self.maybe(0.2):
            kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[self.dims - 1]
            stride = draw.choice([1, 2])
            return kind(
                CHANNELS,
                CHANNELS,
                draw.choice([2, 3, 4]),
                stride,
                1,
                stride - 1,
                groups,
                bias,
                draw.choice([1, 2]),
            )
        taps = tuple(draw.choice([1, 2, 3, 3, 4, 5]) for _ in range(self.dims))
        mode = draw.choice(["zeros", "zeros", "reflect", "replicate", "circular"])
        dilation = draw.choice([1, 1, 2])
        if self.maybe(0.3):
            return kind(CHANNELS, CHANNELS, taps, 1, "same", dilation, groups, bias, mode)
        padding = tuple((tap - 1) * dilation - (tap - 1) * dilation // 2 for tap in taps)
        return kind(CHANNELS, CHANNELS, taps, draw.choice([1, 1, 2]), padding, dilation, groups, bias, mode)

    def _own_class(self, kind: type[Any]) -> type[Any]:
        class Named(kind):
            pass

        class Forward(kind):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) * 2

        class Inner(kind):
            def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                return super()._conv_forward(x, weight / weight.square().sum().sqrt(), bias)

        class Copied(kind):
            def __deepcopy__(self, memo: dict[int, object]) -> Any:
                raise RuntimeError("not asked for")

        return self.draw.choice([Named, Forward, Inner, Copied])

    def norm(self) -> nn.Module:
        kind: type[Any] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[self.dims - 1]

        class Doubled(kind):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(2 * x)

        class Reading(kind):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) + self.running_mean.mean()

        choices = [
            *[lambda: kind(CHANNELS)] * 8,
            lambda: kind(CHANNELS, affine=False),
            lambda: kind(CHANNELS, track_running_stats=False),
            lambda: kind(CHANNELS).requires_grad_(False),
            lambda: nn.SyncBatchNorm(CHANNELS),
            lambda: nn.GroupNorm(2, CHANNELS),
            lambda: Doubled(CHANNELS),
            lambda: Reading(CHANNELS),
        ]
        return self.draw.choice(choices)()

    def act(self) -> nn.Module:
        return self.draw.choice([nn.ReLU, nn.Tanh, nn.Identity, nn.Dropout])()

    def stage(self) -> nn.Module:
        return self.draw.choice(
            [self.row, self.row, self.row, self.joined, self.joined, self.tied, self.nested]
        )()

    def row(self) -> nn.Module:
        """Convolution, perhaps something, BatchNorm, activation."""
        between = [nn.Identity()] if self.maybe(0.15) else [nn.Dropout()] if self.maybe(0.05) else []
        norm = [self.norm()] if self.maybe(0.6) else []
        return nn.Sequential(self.conv(), *between, *norm, self.act())

    def nested(self) -> nn.Module:
        parts = nn.ModuleDict({"a": self.row(), "b": nn.ModuleList([self.row()])})
        return Stage(lambda own, x: own.parts["b"][0](own.parts["a"](x)), parts=parts)

    def tied(self) -> nn.Module:
        """Two convolutions with something in common."""
        first, second = self.conv(True, plain=True), self.conv(True, plain=True)
        a, b = self.norm(), self.norm()
        what = self.draw.choice(["bias", "storage", "statistics", "norm", "weight", "module"])
        if what == "bias":
            second.bias = first.bias
        elif what == "storage":
            second.bias = nn.Parameter(first.bias.detach())
        elif what == "statistics" and isinstance(a, _BatchNorm) and isinstance(b, _BatchNorm):
            b.running_mean = a.running_mean
            first.bias = second.bias = None
        elif what == "norm":
            first.bias = second.bias = None
            b = a
        elif what == "weight":
            first, second = self.conv(plain=True), self.conv(plain=True)
            second = first if second.weight.shape != first.weight.shape else second
            second.weight = first.weight
        elif what == "module":
            second = first
        return Stage(
            lambda own, x: own.b(own.second(own.a(own.first(x)))), first=first, second=second, a=a, b=b
        )

    def joined(self) -> nn.Module:
        """A convolution and a BatchNorm, joined in one of the ways that people think of."""
        conv, norm = self.conv(plain=True), self.norm()
        function = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        shape = (1, -1, *[1] * self.dims)
        untraced = self.maybe(0.4)

        def functional(own: Any, x: Tensor) -> Tensor:
            options = {"padding": conv.padding, "groups": conv.groups}
            return own.norm(own.conv(x)) + function(x, own.conv.weight, own.conv.bias, **options)

        def keeps(own: Any, x: Tensor) -> Tensor:
            own.features = {"all": [own.conv(x)]}
            return own.norm(own.features["all"][0])

        def read_bias(own: Any, x: Tensor) -> Tensor:
            y = own.norm(own.conv(x))
            return y if own.conv.bias is None else y - own.conv.bias.reshape(shape)

        def read_mean(own: Any, x: Tensor) -> Tensor:
            mean = getattr(own.norm, "running_mean", None)
            return own.norm(own.conv(x)) + (0 if mean is None else mean.reshape(shape))

        ways: list[Callable[[Any, Tensor], Any]] = [
            lambda own, x: own.norm(own.conv(x)),
            lambda own, x: own.norm(own.conv(input=x)),
            lambda own, x: own.norm(own.conv(x)) + x.mean(),
            lambda own, x: own.norm(y := own.conv(x)) + y,
            lambda own, x: own.norm(own.conv(own.conv(x).tanh())),
            lambda own, x: own.norm(own.norm(own.conv(x))),
            lambda own, x: own.norm(own.conv(x)) * own.conv.weight.square().mean(),
            lambda own, x: own.norm(own.conv(x)) * own.held[0].square().mean(),
            lambda own, x: own.norm(own.conv(x.to(own.conv.weight.dtype))),
            *(functional, keeps, read_bias, read_mean),
        ]
        way = self.draw.choice(ways)
        stage = Stage(
            (lambda own, x: way(own, x) if x.sum() > -1e30 else x) if untraced else way, conv=conv, norm=norm
        )
        stage.held = [conv.weight, [conv.bias]]
        return stage

    def disturb(self, net: nn.Module) -> None:
        """Hooks, parametrisations and frozen parameters, on what the net is made of."""
        for module in list(net.modules()):
            convolution = isinstance(module, nn.modules.conv._ConvNd)
            if self.maybe(0.12 if convolution or isinstance(module, _BatchNorm) else 0.04):
                self.draw.choice(HOOKS)(module)
            if convolution and self.maybe(0.15):
                self.draw.choice(FROZEN)(module)
            if convolution and self.maybe(0.12):
                self.draw.choice(COMPUTED)(module)

    def net(self) -> nn.Module:
        body = nn.Sequential(*(self.stage() for _ in range(self.draw.randint(1, 3))))
        head = nn.Linear(CHANNELS, 3, bias=self.maybe())
        ways: list[Callable[[Any, Tensor], Any]] = [
            lambda own, x: own.body(x),
            lambda own, x: (own.body(x), x),
            lambda own, x: {"map": (y := own.body(x)), "scores": [own.head(y.flatten(2).mean(2))]},
            lambda own, x: own.norm(own.head(own.body(x).flatten(2).mean(2))),
        ]
        net = Stage(self.draw.choice(ways), body=body, head=head, norm=nn.BatchNorm1d(3))
        self.disturb(net)
        return net


def _tangle(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return output * 2 + 1 if isinstance(output, Tensor) else None


def _halve(module: nn.Module, args: tuple[Any, ...]) -> Any:
    return tuple(arg / 2 if isinstance(arg, Tensor) else arg for arg in args)


def _kwargs(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _halve(module, args), {name: value + 1 for name, value in kwargs.items()}


def _watch(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    module.seen = output


HOOKS: list[Callable[[nn.Module], object]] = [
    lambda module: module.register_forward_hook(_tangle),
    lambda module: module.register_forward_hook(
        lambda own, args, kwargs, y: _tangle(own, args, y), with_kwargs=True
    ),
    lambda module: module.register_forward_pre_hook(_halve),
    lambda module: module.register_forward_pre_hook(_kwargs, with_kwargs=True),
    lambda module: module.register_forward_hook(_watch),
]
FROZEN: list[Callable[[Any], object]] = [
    lambda conv: conv.weight.requires_grad_(False),
    lambda conv: None if conv.bias is None else conv.bias.requires_grad_(False),
    lambda conv: conv.requires_grad_(False),
]
COMPUTED: list[Callable[[Any], object]] = [
    lambda conv: parametrizations.weight_norm(conv),
    lambda conv: parametrizations.spectral_norm(conv),
    lambda conv: prune.l1_unstructured(conv, "weight", 0.3),
    lambda conv: (
        None if conv.bias is None else parametrize.register_parametrization(conv, "bias", Absolute())
    ),
    lambda conv: None if conv.bias is None else prune.l1_unstructured(conv, "bias", 0.3),
]


def move(net: nn.Module) -> None:
    """Every parameter and every statistic, as training does and further."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for module in net.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.add_(0.3 * torch.randn_like(module.running_mean))
                module.running_var.mul_(0.5 + torch.rand_like(module.running_var))


@dataclass
class Outcome:
    """What became of one net: how many layers were expanded, the relative error of the fold, reasons, a fault."""

    seed: int
    text: str
    layers: int = 0
    error: float | None = None
    refused: str | None = None
    fault: str | None = None


def trial(seed: int) -> Outcome:
    """Judge one net. Whatever is no ``ReparamError`` is a fault, and so is an error of 1e-10 or more."""
    draw = random.Random(seed)
    block, norm = draw.choice(BLOCKS), draw.choice(["scale", "batch", "batch", "none"])
    restored, example, mutated = draw.random() < 0.3, draw.random() < 0.5, draw.random() < 0.3
    outcome = Outcome(
        seed, f"{block}, norm={norm}, restore_bn={restored}, example={example}, changed={mutated}"
    )
    with _float64():
        torch.manual_seed(seed)
        grammar = Grammar(draw)
        try:
            net = grammar.net()
            move(net)
            x = torch.randn(2, CHANNELS, *[9] * grammar.dims)
            net.eval()(x)
        except Exception:  # a net that does not run, such as one whose padding is wider than its input
            outcome.refused = "the net does not run"
            return outcome
        try:
            _judge(
                outcome, grammar, net.train(draw.random() < 0.5), x, restored, mutated, example, (block, norm)
            )
        except rk.ReparamError as error:
            outcome.refused = str(error)
        except Exception as error:
            outcome.fault = f"{type(error).__name__}: {error}"
    return outcome


def _judge(
    outcome: Outcome,
    grammar: Grammar,
    net: nn.Module,
    x: Tensor,
    restored: bool,
    mutated: bool,
    example: bool,
    how: tuple[str, Any],
) -> None:
    student = rk.restore_bn(net, [x, x + 1]) if restored else net
    if not restored or grammar.maybe(0.7):
        options: dict[str, Any] = {"include": ["*"]} if grammar.maybe(0.3) else {}
        options |= {"example_inputs": x} if example else {}
        options |= {"calibration": [x, -x]} if grammar.maybe(0.2) else {}
        student = rk.expand(student, *how, **options)
    _compare_untrained(net, rk.fold(student), exact=not restored)
    if grammar.maybe(0.3):
        losses = [leaf.square().mean() for leaf in tree_leaves(student.train()(x)) if leaf.requires_grad]
        sum(losses, start=torch.zeros((), requires_grad=True)).backward()
    move(student)
    stand_ins = [module for module in student.modules() if isinstance(module, Foldable)]
    if mutated:
        part = grammar.draw.choice([*stand_ins, *(module for one in stand_ins for module in one.modules())])
        changes = HOOKS if not hasattr(part, "weight") or isinstance(part, Foldable) else [*HOOKS, *COMPUTED]
        grammar.draw.choice(changes)(part)
    folded = rk.fold(student)
    with torch.no_grad():
        pairs = list(zip(tree_leaves(student.eval()(x)), tree_leaves(folded.eval()(x)), strict=True))
    outcome.layers = len(stand_ins)
    outcome.error = max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-300)) for a, b in pairs)
    if not outcome.error < 1e-10:
        outcome.fault = f"the fold is off by {outcome.error:.1e}"


def _compare_untrained(net: nn.Module, folded: nn.Module, exact: bool) -> None:
    before, after = net.state_dict(), folded.state_dict()
    assert list(before) == list(after), "other keys in the state_dict"
    if exact:
        assert all(torch.equal(before[name], after[name]) for name in before), "other bytes"
    for a, b in zip(net.modules(), folded.modules(), strict=True):
        assert type(a) is type(b), "another class"
        assert list(a._forward_hooks.values()) == list(b._forward_hooks.values()), "other hooks"
        assert [type(hook) for hook in a._forward_pre_hooks.values()] == [
            type(hook) for hook in b._forward_pre_hooks.values()
        ], "other pre-hooks"


@contextmanager
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
