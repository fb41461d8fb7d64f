"""The command line: the whole way on one small file, exit codes, and one clear line for what is wrong."""

from __future__ import annotations

import errno
import json
from importlib.metadata import version
from pathlib import Path

import onnx
import pytest
import torch
from click.shell_completion import BashComplete
from click.testing import CliRunner, Result
from nets import Plain, build
from test_formats import small_onnx
from torch import Tensor, nn

import reparam_kit as rk
from reparam_kit.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_whole_way(tmp_path: Path) -> None:
    deployed, student, folded = small_onnx(tmp_path / "a.onnx"), tmp_path / "student.pt", tmp_path / "b.onnx"
    assert run("expand", deployed, "-o", student, "--block", "repvgg").exit_code == 0
    assert run("fold", student, "-o", folded).exit_code == 0
    assert folded.read_bytes() == deployed.read_bytes()
    assert run("diff", deployed, folded).exit_code == 0
    report = run("verify", deployed, folded, "--json")
    assert report.exit_code == 0
    assert json.loads(report.stdout)["ok"] is True


def test_other_weights_are_another_function_and_the_same_graph(tmp_path: Path) -> None:
    a, b = small_onnx(tmp_path / "a.onnx"), small_onnx(tmp_path / "b.onnx")
    assert run("diff", a, b).exit_code == 0
    assert run("verify", a, b).exit_code == 1
    assert run("verify", a, b, "--retrained").exit_code == 0


def test_graphs_that_differ(tmp_path: Path) -> None:
    a, b = small_onnx(tmp_path / "a.onnx"), tmp_path / "b.onnx"
    model = onnx.load(a)
    model.graph.node[1].op_type = "Elu"
    onnx.save(model, b)
    result = run("diff", a, b)
    assert result.exit_code == 1
    assert "graph.node[/Relu].op_type changed: Relu -> Elu" in result.stdout
    assert json.loads(run("diff", a, b, "--json").stdout)["same_graph"] is False


def test_version_names_what_results_depend_on() -> None:
    lines = [line.split() for line in run("--version").stdout.splitlines()]
    assert lines[0] == ["reparam-kit", rk.__version__]
    assert dict(lines[1:]) == {name: version(name) for name in ("torch", "onnx", "onnxruntime")}


@pytest.mark.parametrize(
    ("typed", "last", "kind", "value"),
    [
        ([], "ver", "plain", "verify"),
        ([], "ts", "plain", "tsmr"),
        (["fold"], "stu", "file", "stu"),
        (["tsmr"], "stu", "file", "stu"),
        (["expand", "a.onnx", "--weights"], "w", "file", "w"),
        (["expand", "a.onnx"], "--inc", "plain", "--include"),
    ],
)
def test_the_shell_completes(typed: list[str], last: str, kind: str, value: str) -> None:
    shell = BashComplete(main, {}, "reparam-kit", "_REPARAM_KIT_COMPLETE")
    (found,) = shell.get_completions(typed, last)
    assert (found.type, found.value) == (kind, value)


def test_inspect_lists_every_convolution(tmp_path: Path) -> None:
    net = small_onnx(tmp_path / "a.onnx")
    table = run("inspect", net)
    assert "2 of 2 layers are expanded" in table.stdout
    assert "(1) conv(1) + conv(1) >> conv(k) + conv(1) >> avg(k)" in table.stdout
    assert "times the plain one" not in table.stdout
    rows = json.loads(run("inspect", net, "--json", "--exclude", "*stem*").stdout)
    assert [row["reason"] for row in rows] == ["excluded", None]
    assert rows[1]["branches"] == ["conv(1)", "conv(1) >> conv(k)", "conv(1) >> avg(k)"]


@pytest.mark.parametrize(("terminal", "lines"), [(False, 1), (True, 2)])
def test_a_long_name_is_folded_in_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, lines: int
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    table = run("inspect", "test_cli:Deep").stdout
    assert (f"{'deeper_' * 10}net" in table) == (not terminal)
    assert sum("deeper" in line for line in table.splitlines()) == lines


class Deep(nn.Module):
    """Its one convolution has a long name."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module(f"{'deeper_' * 10}net", nn.Conv2d(3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        (conv,) = self.children()
        out: Tensor = conv(x)
        return out


class Functional(nn.Module):
    """Convolves with a parameter of its own, for which there is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.kernel = nn.Parameter(torch.randn(3, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(self.conv(x), self.kernel)


def test_inspect_answers_for_convolutions_without_a_layer() -> None:
    table = run("inspect", "test_cli:Functional").stdout
    assert "1 of 2 layers are expanded" in table
    assert "functional call" in table
    assert json.loads(run("inspect", "test_cli:Functional", "--json").stdout)[1]["kernel"] is None


def test_a_factory_and_its_weights(tmp_path: Path) -> None:
    rk.save(build(Plain), tmp_path / "plain.safetensors")
    result = run("inspect", "nets:Plain", "--weights", tmp_path / "plain.safetensors", "--json")
    rows = json.loads(result.stdout)
    assert [row["kind"] for row in rows] == ["Conv2d"] * 6 + ["Linear"]


def test_costs_and_budget(tmp_path: Path) -> None:
    shape = ["--input-shape", "2x3x17x17"]
    dear = run("inspect", "nets:Plain", *shape)
    assert "estimated cost of a training step: 1.08 times the plain one" in dear.stdout
    rows = json.loads(run("inspect", "nets:Plain", *shape, "--budget", "1.03", "--json").stdout)
    assert {row["reason"] for row in rows[:6]} == {None, "does not fit into budget=1.03"}
    extra = sum(row["extra_macs"] for row in rows if row["reason"] is None)
    assert 0 < extra <= 0.03 * sum(row["macs"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input-shape", "2x3xA"], "write a shape as 16x3x224x224"),
        (["--budget", "1.5"], "needs example_inputs"),
        (["--budget", "0.5", "--input-shape", "2x3x17x17"], "above 1"),
    ],
)
def test_a_wrong_shape_or_budget(arguments: list[str], message: str) -> None:
    result = run("inspect", "nets:Plain", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["inspect", "missing.onnx"], 2, "missing.onnx: no such file"),
        (["expand", "{net}", "-o", "{out}.pt", "--block", "ddb"], 2, "did you mean 'dbb'"),
        (
            ["expand", "{net}", "-o", "{out}.pt", "--block", "conv(k) + conf(1)"],
            2,
            "column 11: there is no factor 'conf'",
        ),
        (
            ["expand", "{net}", "-o", "{out}.pt", "--norm", "layer"],
            2,
            "known names: scale, batch, none",
        ),
        (
            ["expand", "{net}", "-o", "{out}.pt", "--include", "zzz"],
            2,
            "include='zzz' matches no layer",
        ),
        (
            ["expand", "{net}", "-o", "{out}.pt", "--block", "conv(k) + conv(7)"],
            3,
            "none of the 2 layers",
        ),
        (["expand", "{net}", "-o", "{out}.xyz"], 2, "choose .onnx, .pt, .pth or .safetensors"),
        (["expand", "{net}", "-o", "{out}.onnx"], 2, "fold"),
        (["fold", "{net}", "-o", "{out}.onnx"], 3, "no expanded convolution"),
        (["verify", "{net}", "missing.onnx"], 2, "missing.onnx"),
        (["diff", "{net}", "missing.onnx"], 2, "missing.onnx"),
    ],
)
def test_what_is_wrong_takes_one_line(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    net, out = small_onnx(tmp_path / "net.onnx"), tmp_path / "out"
    result = run(*[argument.format(net=net, out=out) for argument in arguments])
    assert result.exit_code == code
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == [net]


def test_a_failing_disk_takes_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    result = run("expand", small_onnx(tmp_path / "net.onnx"), "-o", tmp_path / "out.pt")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_reader_that_has_gone_away_is_no_error_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `reparam-kit inspect ... | head`."""

    def gone(*_: object, **options: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("reparam_kit.planning.plan", gone)
    result = run("inspect", "nets:Plain")
    assert result.exit_code == 141
    assert result.stderr == ""
