"""What is printed is one line that a terminal cannot obey, whatever it tells of."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unicodedata import category

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_formats import small_onnx
from torch import nn

from reparam_kit.cli import main
from reparam_kit.cli.listing import show
from reparam_kit.errors import InputError, ReparamError, printable
from reparam_kit.planning import plan


@given(st.text(st.characters(exclude_categories=())))
def test_any_text_is_one_line_that_can_be_printed(text: str) -> None:
    shown = printable(text)
    assert not {category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown
    assert str(InputError(text)) == shown


def test_what_can_be_printed_stays_as_it_is() -> None:
    assert (
        printable("layer1.0.conv.weight, 日本, [red],\u3000\xa0")
        == "layer1.0.conv.weight, 日本, [red],\u3000\xa0"
    )
    assert printable("a\x1b[2J\n\u202eb\udcff") == r"a\x1b[2J\n\u202eb\udcff"


def test_what_is_long_is_cut_in_the_middle() -> None:
    shown = str(InputError("a" * 10_000 + "the end"))
    assert len(shown) < 2000
    assert shown.endswith("the end")


def raising(error: Exception) -> object:
    def load(*args: object, **options: object) -> None:
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ReparamError("no\x1b[2J\nnews"), 2, r"reparam-kit: no\x1b[2J\nnews"),
        (KeyError("conv\n1"), 70, "this is a fault of reparam-kit: KeyError: 'conv\\n1' at "),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "out of memory"),
        (RecursionError(), 2, "nested too deeply"),
    ],
)
def test_every_error_is_one_line(
    error: Exception, code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reparam_kit.formats.load", raising(error))
    result = CliRunner().invoke(main, ["inspect", "model.onnx"])
    assert result.exit_code == code
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("error", "code"), [(KeyError("conv1"), 70), (InputError("no such net"), 2)])
@pytest.mark.parametrize(
    ("option", "variable"), [(["--traceback"], ""), ([], "1")], ids=["option", "variable"]
)
def test_the_trace_of_an_error_is_there_for_who_asks(
    error: Exception, code: int, option: list[str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reparam_kit.formats.load", raising(error))
    monkeypatch.setenv("REPARAM_TRACEBACK", variable)
    result = CliRunner().invoke(main, [*option, "inspect", "model.onnx"])
    assert result.exit_code == code
    assert result.stderr.startswith("Traceback (most recent call last)")
    assert "in load\n" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("reparam-kit: ")


@pytest.mark.parametrize(
    ("module", "code", "ours"),
    [
        ("reparam_kit.onnx.importer.ops.conv", "None.shape", True),
        ("reparam_kit.onnx.importer.ops.conv", "len(1)", True),
        ("reparam_kit.onnx.importer.ops.conv", "1 / 0", False),
        ("reparam_kit_of_another", "None.shape", False),
        ("torch.nn.functional", "len(1)", False),
    ],
)
def test_a_fault_of_ours_is_no_damage_of_the_file(
    module: str, code: str, ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace: dict[str, Any] = {"__name__": module}
    exec(f"def importer(op): {code}", namespace)
    monkeypatch.setattr("reparam_kit.onnx.importer.registry.find_importer", lambda *_: namespace["importer"])
    result = CliRunner().invoke(main, ["inspect", str(small_onnx(tmp_path / "net.onnx"))])
    assert result.exit_code == (70 if ours else 2)
    assert ("a fault of reparam-kit" if ours else "is malformed") in result.stderr


@pytest.mark.parametrize(
    ("module", "code", "says"),
    [
        ("imported_mine", "torch.zeros(2) + torch.zeros(3)", ", line 1: RuntimeError: The size of tensor a"),
        ("imported_mine", "{}['x']", ", line 1: KeyError: 'x'"),
        ("recipes.tsmr.loss", "{}['x']", "this is a fault of reparam-kit: KeyError: 'x'"),
    ],
)
def test_a_fault_of_a_file_that_was_imported_is_not_ours(
    module: str, code: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace: dict[str, Any] = {"__name__": module, "torch": torch}
    exec(f"def load(*args, **options): {code}", namespace)
    monkeypatch.setattr("reparam_kit.formats.load", namespace["load"])
    result = CliRunner().invoke(main, ["inspect", "model.onnx"])
    assert says in result.stderr
    assert result.exit_code == (70 if "fault" in says else 2)


def test_names_of_layers_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential()
    for name in ("[red]conv[", "\x1b[2Jconv", "a\nb"):
        net.add_module(name, nn.Conv2d(3, 3, 3))
    show(plan(net))
    shown = capsys.readouterr().out
    for name in ("[red]conv[", r"\x1b[2Jconv", r"a\nb"):
        assert name in shown
    assert "\x1b" not in shown
