"""Model files: what is read, what is refused, and that nothing is run or lost on the way."""

from __future__ import annotations

import pickle
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from nets import Plain, build, disturb, images
from safetensors.torch import save_model
from test_restoration import Deployed
from torch import nn

import reparam_kit as rk
from reparam_kit.algebra import NORMS, Expanded


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("ran"),))


def small_onnx(path: Path) -> Path:
    from onnx import TensorProto, helper, numpy_helper, save

    weights = {
        "stem.weight": torch.randn(6, 3, 3, 3),
        "stem.bias": torch.randn(6),
        "head.weight": torch.randn(5, 6, 3, 3),
        "head.bias": torch.randn(5),
    }
    nodes = [
        helper.make_node(
            "Conv", ["x", "stem.weight", "stem.bias"], ["a"], name="/stem/Conv", pads=[1, 1, 1, 1]
        ),
        helper.make_node("Relu", ["a"], ["b"], name="/Relu"),
        helper.make_node("Conv", ["b", "head.weight", "head.bias"], ["y"], name="/head/Conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, 6, 6])],
        [numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("norm", NORMS)
def test_an_expanded_onnx_model_round_trips_without_pickle(tmp_path: Path, norm: str) -> None:
    deployed = rk.load(small_onnx(tmp_path / "deployed.onnx"))
    student = disturb(rk.expand(deployed, "dbb", norm)).eval()
    rk.save(student, tmp_path / "student.pt")
    again = rk.load(tmp_path / "student.pt").eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x), student(x))
    rk.save(rk.fold(student), tmp_path / "a.onnx")
    rk.save(rk.fold(again), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert rk.diff(tmp_path / "deployed.onnx", tmp_path / "a.onnx").same_graph


def test_an_untrained_round_trip_returns_the_file(tmp_path: Path) -> None:
    path = small_onnx(tmp_path / "deployed.onnx")
    rk.save(rk.fold(rk.expand(rk.load(path))), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_different_blocks_at_different_sites_survive_the_archive(tmp_path: Path) -> None:
    deployed = rk.load(small_onnx(tmp_path / "deployed.onnx"))
    first, second = [site.name for site in rk.inspect(deployed)]
    student = rk.expand(rk.expand(deployed, "acb", include=[first]), "repvgg", "none", include=[second])
    rk.save(student, tmp_path / "student.pt")
    blocks = {
        m.site: (m.block, m.norm)
        for m in rk.load(tmp_path / "student.pt").modules()
        if isinstance(m, Expanded)
    }
    assert blocks == {m.site: (m.block, m.norm) for m in student.modules() if isinstance(m, Expanded)}


def test_a_pickled_module_is_read_only_when_allowed(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    rk.save(net, tmp_path / "net.pt")
    with pytest.raises(rk.UnsafeFileError, match="--unsafe-load"):
        rk.load(tmp_path / "net.pt")
    again = rk.load(tmp_path / "net.pt", unsafe=True)
    assert torch.equal(again[0].weight, net[0].weight)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_a_hostile_file_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Bomb(), tmp_path / f"new{suffix}")
    (tmp_path / f"old{suffix}").write_bytes(pickle.dumps(Bomb()))
    for name in ("new", "old"):
        with pytest.raises(rk.ReparamError):
            rk.load(tmp_path / f"{name}{suffix}")
        with pytest.raises(rk.ReparamError):
            rk.load("nets:Plain", weights=tmp_path / f"{name}{suffix}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_factory_with_weights(tmp_path: Path, suffix: str) -> None:
    net = build(Plain).eval()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(net.state_dict(), path)
    else:
        save_model(net, str(path))
    x = images()
    assert torch.equal(rk.load("nets:Plain", weights=path).eval()(x), net(x))


def test_safetensors_holds_the_state_dict(tmp_path: Path) -> None:
    net = build(Plain).eval()
    rk.save(net, tmp_path / "net.safetensors")
    x = images()
    assert torch.equal(rk.load("nets:Plain", weights=tmp_path / "net.safetensors").eval()(x), net(x))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factory", ["nets:Plain", "nets:Shared", "nets:Dynamic"])
def test_an_expanded_module_round_trips_without_pickle(tmp_path: Path, factory: str, norm: str) -> None:
    student = disturb(rk.expand(rk.load(factory), "dbb", norm, example_inputs=images())).eval()
    rk.save(student, tmp_path / "student.safetensors")
    again = rk.load(factory, weights=tmp_path / "student.safetensors").eval()
    x = images()
    assert torch.equal(again(x), student(x))
    assert torch.equal(rk.fold(again)(x), rk.fold(student)(x))


def test_a_restored_module_round_trips_without_pickle(tmp_path: Path) -> None:
    x = images()
    student = rk.expand(rk.restore_bn(Deployed(), [x]), include=["stem.conv", "twice.conv"])
    rk.save(disturb(student).eval(), tmp_path / "student.safetensors")
    again = rk.load("test_restoration:Deployed", weights=tmp_path / "student.safetensors").eval()
    assert torch.equal(again(x), student(x))


# An archive whose end says that there is one entry, in 46 bytes before it that describe none.
NO_DIRECTORY = b"PK\x03\x04" + bytes(26 + 46) + b"PK\x05\x06\0\0\0\0\1\0\1\0\x2e" + bytes(9)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.onnx", None, "no such file"),
        ("missing.pt", None, "no such file"),
        ("empty.pt", b"", "not a file that torch.save wrote"),
        ("text.pt", b"hello, world", "not a file that torch.save wrote"),
        ("truncated.pt", b"PK\x03\x04" + bytes(40), "truncated.pt is damaged or truncated"),
        ("end.pt", b"PK\x05\x06" + bytes(18), "not a file that torch.save wrote"),
        ("truncated-pickle.pt", b"\x80\x02}", "damaged or truncated|pickled"),
        ("no-directory.pt", NO_DIRECTORY, "damaged or truncated"),
        ("empty.onnx", b"", "not an ONNX model"),
        ("text.onnx", b"hello, world", "not an ONNX model"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(rk.ReparamError, match=message) as caught:
        rk.load(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_package:make", "cannot import the factory: No module named"),
        ("nets:Plane", "cannot import the factory: module 'nets' has no attribute 'Plane'"),
        ("nets:images", "not a torch.nn.Module"),
    ],
)
def test_factories_that_give_no_model(name: str, message: str) -> None:
    with pytest.raises(rk.InputError, match=message):
        rk.load(name)


def test_an_expanded_module_of_another_class_is_named(tmp_path: Path) -> None:
    rk.save(rk.expand(build(Plain)), tmp_path / "student.safetensors")
    with pytest.raises(rk.InputError, match="does not fit nets:Shared: it is of an expanded model"):
        rk.load("nets:Shared", weights=tmp_path / "student.safetensors")


def test_a_pickled_model_whose_code_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "moved.py").write_text("from torch import nn\nclass Net(nn.Conv2d): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    rk.save(import_module("moved").Net(1, 2, 3), tmp_path / "net.pt")
    monkeypatch.delitem(sys.modules, "moved")
    (tmp_path / "moved.py").unlink()
    with pytest.raises(rk.InputError, match=r"cannot be unpickled: ModuleNotFoundError: .*'moved'"):
        rk.load(tmp_path / "net.pt", unsafe=True)


def test_weights_that_are_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.ones(3), tmp_path / "one.pt")
    with pytest.raises(rk.InputError, match="holds a Tensor, not a state_dict"):
        rk.load("nets:Plain", weights=tmp_path / "one.pt")


def test_a_state_dict_is_not_a_model_and_may_not_fit(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(rk.InputError, match=r"package\.module:factory"):
        rk.load(tmp_path / "weights.pt")
    with pytest.raises(rk.InputError, match="does not fit nets:Plain"):
        rk.load("nets:Plain", weights=tmp_path / "weights.pt")
    with pytest.raises(rk.InputError, match="brings its own"):
        rk.load(tmp_path / "weights.pt", weights=tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("name", "message"),
    [("out.bin", "choose .onnx, .pt, .pth or .safetensors"), ("no/folder/out.pt", "does not exist")],
)
def test_where_nothing_can_be_written(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(rk.InputError, match=message):
        rk.save(build(Plain), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_onnx_needs_a_model_that_came_from_onnx(tmp_path: Path) -> None:
    with pytest.raises(rk.InputError):
        rk.save(build(Plain), tmp_path / "out.onnx")
    student = rk.expand(rk.load(small_onnx(tmp_path / "deployed.onnx")))
    with pytest.raises(rk.InputError, match="fold"):
        rk.save(student, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_pickled_model_finds_its_code_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here_only.py").write_text(
        "from torch import nn\nclass Net(nn.Conv2d): pass\ndef net(): return Net(1, 2, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    rk.save(rk.expand(rk.load("here_only:net")), "student.pt")
    monkeypatch.delitem(sys.modules, "here_only")
    assert type(rk.fold(rk.load("student.pt", unsafe=True))).__name__ == "Net"


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_weights_in_a_checkpoint(tmp_path: Path, key: str) -> None:
    net = build(Plain)
    torch.save({"epoch": 3, key: net.state_dict(), "optimizer": {"state": {}}}, tmp_path / "checkpoint.pt")
    loaded = rk.load("nets:Plain", weights=tmp_path / "checkpoint.pt")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def make(:", "importing it fails: SyntaxError"),
        ("1 / 0", "importing it fails: ZeroDivisionError"),
        ("def make(): return [][0]", r"make\(\) fails: IndexError"),
    ],
)
def test_a_factory_that_fails_is_the_users(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(rk.InputError, match=message):
        rk.load(f"{name}:make")
