"""Factories with arguments: read as literals, called as written, and never evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import reparam_kit as rk

NETS = """
from pathlib import Path
import torch
from torch import nn

def ran():
    Path("ran").touch()

class Net(nn.Sequential):
    def __init__(self, depth, widths=(4,), *, name="plain", **rest):
        super().__init__(*(nn.Conv2d(3, 3, 3) for _ in range(depth)))
        self.given = [depth, widths, name, rest]

    @classmethod
    def small(cls, depth=1):
        return cls(depth)

number = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "given_nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ("(1)", [1, (4,), "plain", {}]),
        ("(depth=2, widths=[1, 2])", [2, [1, 2], "plain", {}]),
        ("( 2,\n(1, -2.5e-3), name='a:b(c)' )", [2, (1, -2.5e-3), "a:b(c)", {}]),
        ("(1, x={'a': None, 'b': [True]},)", [1, (4,), "plain", {"x": {"a": None, "b": [True]}}]),
        ("(1, name='http://a/../b.onnx')", [1, (4,), "http://a/../b.onnx", {}]),
        (f"(1, name='{'long' * 300}')", [1, (4,), "long" * 300, {}]),
        (r"(1, name='\d')", [1, (4,), r"\d", {}]),
    ],
)
def test_arguments_are_what_the_literals_say(arguments: str, given: list[object]) -> None:
    assert rk.load(f"given_nets:Net{arguments}").given == given


def test_a_method_of_a_class_is_a_factory() -> None:
    assert rk.load("given_nets:Net.small").given[0] == 1
    assert rk.load("given_nets:Net.small(depth=3)").given[0] == 3


@pytest.mark.parametrize(
    "value",
    [
        "__import__('given_nets').ran()", "ran()", "ran", "nn.Conv2d", "[x for x in (1,)]", "lambda: 1", "1 + 2",
        "2 ** 9999999999", "[1, ran()]", "{'a': ran}", "f'{1}'", "(y := 1)", "not 1", "[1][0]", "*[1]", "{[]: 1}",
        "(" * 90 + "1" + ")" * 90 + " + x", "-'a'", "1 if 1 else 2",
    ],
)  # fmt: skip
@pytest.mark.parametrize("named", ["", "depth="])
def test_nothing_but_literals_is_taken(value: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(
        rk.InputError, match=r"is no literal, and nothing is evaluated|cannot be read"
    ) as caught:
        rk.load(f"given_nets:Net({named}{value})")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("given_nets:Net(**{'depth': 1})", "is no literal"),
        ("given_nets:Net(depth=1, depth=2)", "the argument depth stands in it twice"),
        ("given_nets:Net(depth=1", "names no factory: write package.module:factory"),
        ("given_nets:Net(1)(2)", "one pair of brackets"),
        ("given_nets:Net(1) + ran()", "one pair of brackets"),
        ("given_nets:Net(1);ran()", "cannot be read"),
        ("given_nets:Net(depth 1)", "its arguments cannot be read: invalid syntax"),
        ("given_nets:Net(" + "(" * 5000 + ")" * 5000 + ")", "cannot be read|no literal"),
        ("given_nets:Net(1, name='\0')", "cannot be read"),
        ("given_nets:Net", r"missing a required argument: 'depth': .* arguments are \(depth, widths=\(4,\)"),
        ("given_nets:Net.small(width=3)", r"unexpected keyword argument 'width': .* \(depth=1\)"),
        ("given_nets:Net(depth='deep')", "Net\\(depth='deep'\\) fails: TypeError"),
        ("given_nets:number(1)", "number\\(1\\) fails: TypeError: 'int' object is not callable"),
        ("given_nets:Net.tiny", "has no attribute 'tiny'"),
        ("given_nets:", "cannot import the factory"),
        (":Net(1)", "cannot import the factory"),
        ("no_such:Net(1)", "cannot import the factory: No module named 'no_such'"),
    ],
)
def test_what_is_wrong_with_a_factory_is_one_line(name: str, message: str) -> None:
    with pytest.raises(rk.InputError, match=message) as caught:
        rk.load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "factory"),
    [
        ("nets:net", True), ("a.b:C.d(x='y.onnx')", True), ("nets:f(p='C:/a')", True), (nn.ReLU(), False),
        ("missing.onnx", False), ("C:/a/missing.onnx", False), ("C:\\missing.pth", False), (Path("nets:net"), True),
        ("v1:0.safetensors", False), ("nets:f('" + "x" * 5000 + "')", True),
    ],
)  # fmt: skip
def test_factories_are_told_from_files(model: object, factory: bool) -> None:
    assert rk.is_factory(model) is factory


def test_a_file_whose_name_has_a_colon_is_a_file(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "a:b")
    assert not rk.is_factory(tmp_path / "a:b")
