"""The original with a model's weights: for which nets and exporters, what is kept, and what is refused."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from click.testing import CliRunner
from nets import Line, Plain, Residual, Shared, build, disturb, images
from onnx import ModelProto, StringStringEntryProto, helper
from onnx_models import net as foreign
from onnx_models import save, save_external, without_payloads
from torch import Tensor, fx, nn

import reparam_kit as rk
from reparam_kit.cli import main
from reparam_kit.errors import InputError, VerificationError
from reparam_kit.onnx.export import Exported, export_onnx


class Two(nn.Module):
    """Two inputs of different sizes, two outputs, and a constant from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.scale = nn.Linear(5, 4)

    def forward(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        x = self.bn(self.conv(x))
        return x.relu().mean((2, 3)) / 3.0 + self.scale(code), x.sigmoid()


class Free(nn.Module):
    """Fully convolutional."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), activation(), nn.Conv2d(4, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def inputs_of(model: nn.Module) -> tuple[Tensor, ...]:
    return (images(), torch.randn(2, 5)) if isinstance(model, Two) else (images(),)


def deploy(
    model: nn.Module,
    path: Path,
    exporter: str = "torchscript",
    opset: int = 17,
    free: tuple[int, ...] = (0,),
    **more: Any,
) -> Path:
    """Export ``model`` as a user does who knows nothing of this package, with the axes ``free`` free."""
    inputs = inputs_of(model)
    names = [f"in {i}" for i in range(len(inputs))]
    axes = {axis: f"axis{axis}" for axis in free}
    if exporter == "dynamo":
        dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
        settings = {"dynamic_shapes": tuple(dims for _ in inputs), "dynamo": True, "external_data": False}
    else:
        settings = {"dynamic_axes": dict.fromkeys(names, axes), "dynamo": False}
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            deepcopy(model).eval(), inputs, path, opset_version=opset, input_names=names, **settings, **more
        )
    logging.disable(logging.NOTSET)
    return path


CASES = [
    (Plain, "torchscript", 17, (0,)),
    (Shared, "torchscript", 11, ()),
    (Residual, "torchscript", 13, (0,)),
    (Line, "torchscript", 18, ()),
    (Two, "torchscript", 20, (0,)),
    (Free, "torchscript", 9, (0, 2, 3)),
    (Free, "dynamo", 18, (0,)),
    (Two, "dynamo", 20, ()),
]


@pytest.mark.parametrize(("kind", "exporter", "opset", "free"), CASES)
def test_the_original_with_other_weights(
    tmp_path: Path, kind: type[nn.Module], exporter: str, opset: int, free: tuple[int, ...]
) -> None:
    model = build(kind)
    like, out = deploy(model, tmp_path / "like.onnx", exporter, opset, free), tmp_path / "out.onnx"
    assert onnx.load(like).opset_import[0].version == opset
    student = disturb(deepcopy(model)).train()
    next(student.children()).eval()
    modes, state = [part.training for part in student.modules()], deepcopy(student.state_dict())

    assert export_onnx(student, out, like=like) == Exported(exporter, simplified=False)
    assert without_payloads(out) == without_payloads(like)
    assert out.read_bytes() != like.read_bytes()
    report = rk.verify(student, out, inputs_of(model))
    assert report.ok, str(report)
    assert [part.training for part in student.modules()] == modes
    assert all(value.equal(state[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize("kind", [Plain, Two])
def test_unchanged_weights_give_the_same_bytes(tmp_path: Path, kind: type[nn.Module]) -> None:
    model = build(kind)
    like = deploy(model, tmp_path / "like.onnx")
    rk.export_onnx(model, tmp_path / "out.onnx", like=like)
    assert (tmp_path / "out.onnx").read_bytes() == like.read_bytes()


def test_a_folded_model(tmp_path: Path) -> None:
    model = build(Plain)
    like, out = deploy(model, tmp_path / "like.onnx"), tmp_path / "out.onnx"
    student = disturb(rk.expand(model))
    with pytest.raises(InputError, match=r"still has expanded layers .*; fold it first"):
        rk.export_onnx(student, out, like=like)
    rk.export_onnx(rk.fold(student), out, like=like)
    assert rk.diff(like, out).same_graph
    assert rk.verify(student, out, images()).ok


def test_an_fx_module(tmp_path: Path) -> None:
    model = build(Free)
    like, out = deploy(model, tmp_path / "like.onnx"), tmp_path / "out.onnx"
    rk.export_onnx(fx.symbolic_trace(model), out, like=like)
    assert out.read_bytes() == like.read_bytes()


def test_a_file_of_an_older_torch(tmp_path: Path, shared_faces: Path) -> None:
    like, out = shared_faces / "models" / "mobilefacenet_batch1.onnx", tmp_path / "out.onnx"
    assert onnx.load(like).producer_version == "2.9.0"
    model = rk.load(like)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.01 * torch.randn_like(parameter))
    rk.export_onnx(model, out, like=like)
    assert without_payloads(out) == without_payloads(like)
    assert rk.verify(model, out).ok


def _annotate(model: ModelProto) -> None:
    model.doc_string = "deployed in spring"
    model.metadata_props.append(StringStringEntryProto(key="mean", value="127.5"))
    for number, node in enumerate(model.graph.node):
        node.doc_string = f"layer {number}"
        node.name = f"layer {number}"


def _reorder(model: ModelProto) -> None:
    tensors = sorted(model.graph.initializer, key=lambda tensor: tensor.name, reverse=True)
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)


def _weights_in_constants(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]


def _weights_are_inputs(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(info)


def _older(model: ModelProto) -> None:
    for node in model.graph.node:
        defaults = {"group": 1, "alpha": 1.0, "beta": 1.0}
        kept = [a for a in node.attribute if helper.get_attribute_value(a) != defaults.get(a.name)]
        del node.attribute[:]
        node.attribute.extend(kept)
    model.ir_version = 6
    model.producer_version = "1.9"


@pytest.mark.parametrize("edit", [_annotate, _reorder, _weights_in_constants, _weights_are_inputs, _older])
def test_an_original_of_another_make(tmp_path: Path, edit: Callable[[ModelProto], None]) -> None:
    model = build(Plain)
    proto = onnx.load(deploy(model, tmp_path / "like.onnx"))
    edit(proto)
    like, out = save(proto, tmp_path / "like.onnx"), tmp_path / "out.onnx"
    student = disturb(deepcopy(model))
    rk.export_onnx(student, out, like=like)
    assert without_payloads(out) == without_payloads(like)
    assert rk.verify(student, out, images()).ok


def test_an_original_with_external_data(tmp_path: Path) -> None:
    model = build(Plain)
    like = save_external(onnx.load(deploy(model, tmp_path / "like.onnx")), tmp_path / "like.onnx")
    student = disturb(deepcopy(model))
    rk.export_onnx(student, tmp_path / "out.onnx", like=like)
    assert rk.diff(like, tmp_path / "out.onnx").same_graph
    assert rk.verify(student, tmp_path / "out.onnx", images()).ok
    assert {path.name for path in tmp_path.iterdir()} == {
        "like.onnx",
        "weights.bin",
        "out.onnx",
        "out.onnx.data",
    }


def test_half_precision(tmp_path: Path) -> None:
    model = build(Free).half()
    like = tmp_path / "like.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (images().half(),), like, dynamo=False, opset_version=17)
    student = disturb(deepcopy(model))
    rk.export_onnx(student, tmp_path / "out.onnx", like=like)
    assert rk.diff(like, tmp_path / "out.onnx").same_graph
    with pytest.raises(InputError, match="cannot export the model"):
        rk.export_onnx(build(Free), tmp_path / "out.onnx", like=like)


@pytest.mark.parametrize(
    ("exporter", "setting"),
    [("torchscript", {"do_constant_folding": False}), ("dynamo", {"optimize": False})],
)
def test_an_original_that_kept_its_batch_norms(
    tmp_path: Path, exporter: str, setting: dict[str, bool]
) -> None:
    model = build(Free)
    like = deploy(model, tmp_path / "like.onnx", exporter, 18, **setting)
    assert "BatchNormalization" in {node.op_type for node in onnx.load(like).graph.node}
    rk.export_onnx(disturb(model), tmp_path / "out.onnx", like=like)
    assert rk.diff(like, tmp_path / "out.onnx").same_graph


# ------------------------------------------------------------------------------------------------------- refusals


def _wider() -> nn.Module:
    model = Free()
    model.net[3] = nn.Conv2d(4, 5, 1)
    return model


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (lambda: Free(nn.LeakyReLU), "node '/net/net.2/Relu' changed: Relu -> LeakyRelu"),
        (_wider, "initializer 'net.3.weight' changed: float[3, 4, 1, 1] -> float[5, 4, 1, 1]"),
        (lambda: nn.Sequential(Free(), nn.Tanh()), "node '/net/net.3/Conv' changed: Conv -> Tanh"),
    ],
)
def test_another_architecture(tmp_path: Path, other: Callable[[], nn.Module], difference: str) -> None:
    like = deploy(build(Free), tmp_path / "like.onnx")
    with pytest.raises(VerificationError) as caught:
        rk.export_onnx(other(), tmp_path / "out.onnx", like=like)
    assert difference in str(caught.value)
    assert "simplify=True" in str(caught.value)
    assert list(tmp_path.iterdir()) == [like]


def test_a_file_of_another_framework(tmp_path: Path) -> None:
    like = save(foreign(), tmp_path / "like.onnx")
    with pytest.raises(VerificationError, match=r"train what reparam_kit\.load makes of it"):
        rk.export_onnx(nn.Conv2d(3, 4, 3), tmp_path / "out.onnx", like=like)
    assert list(tmp_path.iterdir()) == [like]


def test_weights_that_the_original_holds_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1))
    model[2].load_state_dict(model[0].state_dict())
    like = deploy(model, tmp_path / "like.onnx")
    rk.export_onnx(model, tmp_path / "same.onnx", like=like)
    assert (tmp_path / "same.onnx").read_bytes() == like.read_bytes()
    with pytest.raises(
        VerificationError, match="one tensor for two places -> two tensors with other numbers"
    ):
        rk.export_onnx(disturb(model), tmp_path / "out.onnx", like=like)


class Refuses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("this net takes no images\nat all")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            Refuses(),
            {},
            r"cannot export the model on inputs of shapes \[\[2, 3, 17, 17\]\]: this net takes no images; ",
        ),
        (Free(), {"like": None}, "give like, an ONNX file of the same architecture, or example_inputs"),
        (Free(), {"like": "missing.onnx"}, "cannot read missing.onnx"),
        (Free(), {"example_inputs": [images(), images()]}, "takes 1 inputs, and there are 2 example_inputs"),
        (Free(), {"example_inputs": torch.randn(2, 5)}, "cannot export the model on inputs of shapes"),
    ],
)
def test_what_cannot_be_exported(
    tmp_path: Path, model: nn.Module, options: dict[str, Any], message: str
) -> None:
    like = deploy(build(Free), tmp_path / "like.onnx")
    with pytest.raises(InputError, match=message) as caught:
        rk.export_onnx(model, tmp_path / "out.onnx", **{"like": like, **options})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [like]


@pytest.mark.parametrize("package", ["onnxsim", "onnxscript"])
def test_packages_that_are_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    like = deploy(build(Free), tmp_path / "like.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    options = {"like": like, "simplify": True} if package == "onnxsim" else {"example_inputs": images()}
    with pytest.raises(InputError, match=rf"needs {package}: pip install reparam-kit\[export\]"):
        rk.export_onnx(Free(nn.Tanh), tmp_path / "out.onnx", **options)


# ------------------------------------------------------------------------------------------------------- simplified


def simplified(path: Path) -> ModelProto:
    return onnxsim.simplify(onnx.load(path))[0]


def _unnamed(model: ModelProto) -> ModelProto:
    for node in model.graph.node:
        node.name = ""
    return model


def _with_an_identity(model: ModelProto) -> ModelProto:
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    model.graph.node.insert(
        list(model.graph.node).index(node), helper.make_node("Identity", [node.input[0]], ["same"])
    )
    node.input[0] = "same"
    return model


def test_an_original_that_onnxsim_has_simplified(tmp_path: Path) -> None:
    model = build(Plain)
    like = save(simplified(deploy(model, tmp_path / "like.onnx")), tmp_path / "like.onnx")
    out, student = tmp_path / "out.onnx", disturb(deepcopy(model))
    with pytest.raises(VerificationError, match="simplify=True"):
        rk.export_onnx(student, out, like=like)
    assert rk.export_onnx(student, out, like=like, simplify=True) == Exported("torchscript", simplified=False)
    assert without_payloads(out) == without_payloads(like)
    assert rk.verify(student, out, images()).ok


def test_an_original_that_does_not_tell_its_exporter(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build(Free)
    like = save(
        _unnamed(onnx.load(deploy(model, tmp_path / "like.onnx", "dynamo", 18))), tmp_path / "like.onnx"
    )
    capfd.readouterr()
    export_onnx(disturb(model), tmp_path / "out.onnx", like=like, example_inputs=images(1), simplify=True)
    assert without_payloads(tmp_path / "out.onnx") == without_payloads(like)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


def test_two_graphs_that_are_one_when_simplified(tmp_path: Path) -> None:
    model = build(Free)
    like = save(_with_an_identity(onnx.load(deploy(model, tmp_path / "like.onnx"))), tmp_path / "like.onnx")
    out, student = tmp_path / "out.onnx", disturb(deepcopy(model))
    assert rk.export_onnx(student, out, like=like, simplify=True) == Exported("torchscript", simplified=True)
    assert [node.op_type for node in onnx.load(out).graph.node] == ["Conv", "Relu", "Conv"]
    assert rk.verify(student, out, images()).ok


def test_an_original_with_external_data_is_simplified_too(tmp_path: Path) -> None:
    model = build(Free)
    like = save_external(
        _with_an_identity(onnx.load(deploy(model, tmp_path / "plain.onnx"))), tmp_path / "like.onnx"
    )
    out, student = tmp_path / "out.onnx", disturb(deepcopy(model))
    assert rk.export_onnx(student, out, like=like, simplify=True).simplified
    assert not (tmp_path / "out.onnx.data").exists()
    assert rk.verify(student, out, images()).ok


def test_of_the_likely_exporter_is_told_how_it_differs_where_the_other_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    like = deploy(build(Free), tmp_path / "like.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(VerificationError, match=r"the model's graph is not that of .*Relu.*Tanh"):
        rk.export_onnx(Free(nn.Tanh), tmp_path / "out.onnx", like=like, simplify=True)


def test_what_onnxsim_cannot_simplify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **options: object) -> None:
        raise RuntimeError("Inferred shape and existing shape differ\nin dimension 1")

    monkeypatch.setattr(onnxsim, "simplify", fail)
    with pytest.raises(InputError, match="onnxsim cannot simplify the graph: Inferred shape"):
        rk.export_onnx(build(Free), tmp_path / "out.onnx", example_inputs=images(), simplify=True)
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------------- no original


def test_without_an_original(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = build(Free).train()
    out = tmp_path / "out.onnx"
    assert rk.export_onnx(model, out, example_inputs=images(), simplify=True) == Exported(
        "dynamo", simplified=True
    )
    assert rk.verify(model, out, images()).ok
    assert model.training
    assert list(tmp_path.iterdir()) == [out]
    assert capfd.readouterr() == ("", "")


def test_the_command(tmp_path: Path) -> None:
    model = build(Plain)
    like, out = deploy(model, tmp_path / "like.onnx"), tmp_path / "out.onnx"
    rk.save(disturb(model), tmp_path / "new.safetensors")
    np.savez(tmp_path / "inputs.npz", **{"in 0": images(1).numpy()})
    arguments = [
        "export",
        "nets:Plain",
        "-o",
        str(out),
        "--weights",
        str(tmp_path / "new.safetensors"),
        "--like",
    ]
    result = CliRunner().invoke(main, [*arguments, str(like), "--inputs", str(tmp_path / "inputs.npz")])
    assert result.exit_code == 0, result.output
    assert str(out) in result.stderr
    assert rk.verify(model, out, images()).ok
    other = save(foreign(), tmp_path / "other.onnx")
    result = CliRunner().invoke(main, [*arguments, str(other)])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
