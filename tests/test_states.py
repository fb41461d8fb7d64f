"""Which of the tensors of a file are a model's weights: exactly those, said once, or none."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from nets import disturb
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_formats import small_onnx
from torch import Tensor, nn

import reparam_kit as rk
from reparam_kit.states import fill

Tensors = dict[str, Any]


class Net(nn.Module):
    def __init__(self, out: int = 4) -> None:
        super().__init__()
        self.module_free = nn.Conv2d(3, out, 3)
        self.norm = nn.BatchNorm2d(out)
        self.tied = nn.Conv2d(3, out, 3)
        self.tied.weight = self.module_free.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.module_free(x)) + self.tied(x)


def under(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def first(state: Tensors) -> Tensors:
    """Those names of which each tensor has one."""
    return {name: value for name, value in state.items() if name != "tied.weight"}


FORMS: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "plain": (lambda s: s, ""),
    "DataParallel": (
        under("module."),
        r"without what a wrapper put before them \(module.module_free.weight\)",
    ),
    "compiled": (under("_orig_mod."), "without what a wrapper"),
    "both": (under("module._orig_mod."), "without what a wrapper"),
    "a compiled part": (
        lambda s: {k.replace("norm.", "norm._orig_mod."): v for k, v in s.items()},
        "wrapper",
    ),
    "averaged": (
        lambda s: {**under("module.")(s), "n_averaged": torch.tensor(3)},
        "its names under 'module'",
    ),
    "a checkpoint": (
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {0: {}}}},
        "'state_dict'",
    ),
    "with a tensor beside": (lambda s: {"model": s, "epoch": torch.tensor(3)}, "'model'"),
    "ema": (lambda s: {"ema": {"module": under("module.")(s)}}, "'module' in 'ema', without what"),
    "Lightning": (
        lambda s: {"state_dict": {**under("net.")(s), "loss.weight": torch.ones(2)}, "epoch": 1},
        "'state_dict', its names under 'net'",
    ),
    "two nets": (lambda s: {"backbone": s, "head": {"weight": torch.ones(3, 3)}}, "'backbone'"),
    "a net of another size": (lambda s: {"model": s, "teacher": Net(5).state_dict()}, "'model'"),
    "one name of each tensor": (first, ""),
    "no counter": (lambda s: {k: v for k, v in s.items() if not k.endswith("tracked")}, ""),
    "no counter, wrapped": (
        lambda s: under("module.")({k: v for k, v in s.items() if not k.endswith("tracked")}),
        "without what",
    ),
}


@pytest.mark.parametrize(("form", "said"), FORMS.values(), ids=FORMS)
def test_every_form_of_a_checkpoint_is_its_net(
    form: Callable[[Tensors], Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net, path = Net(), tmp_path / "weights.pth"
    torch.save(form(net.state_dict()), path)
    with caplog.at_level(logging.INFO, "reparam_kit"):
        loaded = rk.load("test_states:Net", weights=path)
    for name, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value) or name.endswith("tracked"), name
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == bool(said)
    assert all(re.search(said, line) for line in lines), lines


def test_a_model_that_is_wrapped_takes_weights_that_are_not() -> None:
    net, wrapped = Net(), nn.DataParallel(Net())
    fill(wrapped, net.state_dict(), Path("w.pt"), "it")
    assert torch.equal(wrapped.module.norm.weight, net.norm.weight)
    fill(wrapped, wrapped.state_dict(), Path("w.pt"), "it")


WRONG: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "two that fit": (
        lambda s: {"model": s, "ema": s},
        r"holds weights for test_states:Net 2 times: 'model'; 'ema'; .*\['model'\], 'weights.pt'\)",
    ),
    "two under prefixes": (lambda s: {**under("a.")(s), **under("b.")(s)}, "2 times: its names under 'a'"),
    "one missing": (
        lambda s: {k: v for k, v in s.items() if k != "tied.bias"},
        "does not fit test_states:Net: missing: tied.bias$",
    ),
    "one too many": (lambda s: {**s, "fc.weight": torch.ones(2)}, "unexpected: fc.weight$"),
    "one too many, wrapped": (
        lambda s: under("module.")({**s, "fc": torch.ones(2)}),
        "unexpected: module.fc$",
    ),
    "another shape": (
        lambda s: {"model": under("module.")({**s, "norm.bias": torch.ones(7)})},
        r"\('model', its names under 'module'\): of another shape: norm.bias \[7\], in the model \[4\]$",
    ),
    "another net": (
        lambda s: {"w": torch.ones(3)},
        "missing: module_free.weight, .* and 3 more; unexpected: w$",
    ),
    "no tensors": (lambda s: {"state_dict": {}, "epoch": 3}, "holds 'state_dict', 'epoch' and no state_dict"),
    "nothing": (lambda s: {}, "holds nothing and no state_dict"),
    "a list": (lambda s: [s], "holds a list, not a state_dict"),
    "a number under a name": (lambda s: {**s, "norm.bias": 3}, "missing: norm.bias"),
}


@pytest.mark.parametrize(("form", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_listed(form: Callable[[Tensors], Any], message: str, tmp_path: Path) -> None:
    torch.save(form(Net().state_dict()), tmp_path / "weights.pt")
    with pytest.raises(rk.InputError, match=message) as caught:
        rk.load("test_states:Net", weights=tmp_path / "weights.pt")
    assert "\n" not in str(caught.value)


def test_modules_that_take_names_of_older_versions_still_do(tmp_path: Path) -> None:
    torch.save({"old": torch.full((3,), 2.0)}, tmp_path / "old.pt")
    loaded = rk.load("test_states:Renaming", weights=tmp_path / "old.pt")
    assert loaded.new.tolist() == [2.0] * 3


class Renaming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.new = nn.Parameter(torch.zeros(3))

    def _load_from_state_dict(self, state: Tensors, prefix: str, *rest: Any) -> None:
        if prefix + "old" in state:
            state[prefix + "new"] = state.pop(prefix + "old")
        super()._load_from_state_dict(state, prefix, *rest)


def test_safetensors_of_a_wrapped_net(tmp_path: Path) -> None:
    net = Net()
    save_file(under("module._orig_mod.")(first(net.state_dict())), tmp_path / "w.safetensors")
    loaded = rk.load("test_states:Net", weights=tmp_path / "w.safetensors")
    assert torch.equal(loaded.tied.weight, net.tied.weight)


class Small(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU())


def test_metadata_of_safetensors_is_kept_from_file_to_file(tmp_path: Path) -> None:
    save_file(Small().state_dict(), tmp_path / "w.safetensors", {"license": "MIT", "format": "pt"})
    student = rk.expand(rk.load("test_states:Small", weights=tmp_path / "w.safetensors"))
    rk.save(student, tmp_path / "student.safetensors")
    again = rk.load("test_states:Small", weights=tmp_path / "student.safetensors")
    rk.save(rk.fold(again), tmp_path / "folded.safetensors")
    for name in ("student", "folded"):
        with safe_open(tmp_path / f"{name}.safetensors", "pt") as file:
            assert {"license": "MIT", "format": "pt"}.items() <= file.metadata().items(), name


def compiled(net: nn.Module) -> Any:
    return torch.compile(net, backend="eager")


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, lambda net: nn.DataParallel(compiled(net))])
def test_what_wraps_a_model_is_not_saved(wrap: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    student = rk.expand(Small())
    rk.save(wrap(student), tmp_path / "student.safetensors")
    assert load_file(tmp_path / "student.safetensors").keys() == student.state_dict().keys()
    again = rk.load("test_states:Small", weights=tmp_path / "student.safetensors")
    assert rk.fold(again).state_dict().keys() == Small().state_dict().keys()
    rk.save(wrap(student), tmp_path / "net.pth")
    assert type(rk.load(tmp_path / "net.pth", unsafe=True)) is Small


def test_weights_of_an_onnx_file_are_those_of_its_expansion(tmp_path: Path) -> None:
    """Without a pickle or a factory: expand to .safetensors, and fold into the file that it came from."""
    path = small_onnx(tmp_path / "deployed.onnx")
    student = disturb(rk.expand(rk.load(path)))
    rk.save(student, tmp_path / "student.safetensors")
    again = rk.load(path, weights=tmp_path / "student.safetensors")
    rk.save(rk.fold(student), tmp_path / "a.onnx")
    rk.save(rk.fold(again), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes() != path.read_bytes()
