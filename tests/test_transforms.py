"""An expanded model under what torch makes of modules: the same function, or one line that says to fold it first."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import torch
from nets import disturb
from torch import Tensor, fx, nn
from wrong_files import assert_one_line

import reparam_kit as rk
from reparam_kit.algebra import NORMS

BLOCK = "conv(1) + conv(1) >> conv(k)"
X = torch.randn(2, 3, 9, 9)


class Net(nn.Module):
    """A layer whose shift a BatchNorm takes up, a grouped one, a transposed one, and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.mix, self.up = nn.Conv2d(4, 4, 3, stride=2, groups=2), nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        out: Tensor = self.head(self.up(torch.relu(self.mix(x))).mean((2, 3)))
        return out


def students() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    net = Net().eval()
    found = {norm: rk.expand(net, BLOCK, norm, include=["*"]) for norm in NORMS}
    found["restored"] = rk.restore_bn(net, [X])
    found["restored, expanded"] = rk.expand(found["restored"], BLOCK)
    found["one layer"] = rk.expand(nn.Conv2d(3, 4, 3), BLOCK)
    return {name: disturb(model).eval() for name, model in found.items()}


STUDENTS = students()


def _pickled(model: nn.Module) -> nn.Module:
    content = BytesIO()
    torch.save(model, content)
    content.seek(0)
    loaded: nn.Module = torch.load(content, weights_only=False)
    return loaded


ALWAYS: dict[str, Callable[[nn.Module], Callable[..., Any]]] = {
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": _pickled,
    "fx": fx.symbolic_trace,
    "fx, folded": lambda model: rk.fold(fx.symbolic_trace(model)),
    "copied, folded": lambda model: rk.fold(copy.deepcopy(model)),
    "pickled, folded": lambda model: rk.fold(_pickled(model)),
    "script of the fold": lambda model: torch.jit.script(rk.fold(model)),
    "trace of the fold": lambda model: torch.jit.trace(rk.fold(model), X),
}


SLOW: dict[str, Callable[[nn.Module], Callable[..., Any]]] = {
    "torch.export": lambda model: torch.export.export(model, (X,)).module(),
    "torch.compile": lambda model: torch.compile(model, backend="eager", fullgraph=True),
}
CASES = [(name, way) for name in STUDENTS for way in ALWAYS if (name, way[:2]) != ("one layer", "fx")]
CASES += [(name, way) for name in ("scale", "batch", "restored, expanded") for way in SLOW]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # torch's own, of torch.compile
@pytest.mark.parametrize(("name", "way"), CASES)
def test_the_same_function(name: str, way: str) -> None:
    model = STUDENTS[name]
    made = (ALWAYS | SLOW)[way](model)
    with torch.set_grad_enabled(
        way == "torch.compile"
    ):  # of a whole graph without gradients it takes no Function
        torch.testing.assert_close(made(X), model(X), rtol=1e-5, atol=1e-6)


def test_a_layer_by_itself_is_no_leaf_of_fx() -> None:
    with pytest.raises(rk.InputError) as caught:
        fx.symbolic_trace(STUDENTS["one layer"])
    assert_one_line(
        str(caught.value), r"the layer: torch.fx cannot trace into a sum of branches; fold .*\(rk.fold\)"
    )


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_script_says_to_fold_first_and_leaves_the_model_alone(name: str) -> None:
    model = STUDENTS[name]
    before = dict(model.named_modules())
    with pytest.raises(rk.InputError) as caught:
        torch.jit.script(model)
    assert_one_line(
        str(caught.value), r"^[a-z ]+: torch.jit.script cannot compile .*fold the model first \(rk.fold\)"
    )
    assert dict(model.named_modules()) == before
    assert torch.equal(model(X), copy.deepcopy(model)(X))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", STUDENTS)
def test_trace_is_the_same_function_or_says_to_fold_first(name: str) -> None:
    model = STUDENTS[name]
    if name in ("batch", "restored"):
        torch.testing.assert_close(torch.jit.trace(model, X)(X), model(X), rtol=1e-5, atol=1e-6)
        return
    with pytest.raises(rk.InputError) as caught:
        torch.jit.trace(model, X)
    assert_one_line(
        str(caught.value), r"^[a-z ]+: torch.jit cannot trace a sum of branches; fold the model first"
    )


@pytest.mark.parametrize("way", ["copy.deepcopy", "torch.save", "fx"])
def test_it_trains_on_as_the_model_does(way: str) -> None:
    model = STUDENTS["scale"]
    gradients = []
    for trained in (copy.deepcopy(model), model):
        made = ALWAYS[way](trained) if trained is not model else model
        made(X).square().sum().backward()
        parameters = (made if isinstance(made, nn.Module) else trained).parameters()
        gradients.append([parameter.grad for parameter in parameters])
        model.zero_grad()
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)
