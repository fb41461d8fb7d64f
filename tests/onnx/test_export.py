"""The original with a model's weights: for which nets and exporters, what is kept, and what is refused."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from deployed import Free, Two, deploy, inputs_of
from nets import Line, Plain, Residual, Shared, build, disturb, images
from onnx import ModelProto, StringStringEntryProto, helper
from onnx_models import net as foreign
from onnx_models import save, save_external, without_payloads
from torch import Tensor, fx, nn

import reparam_kit as rk
from reparam_kit.cli import main
from reparam_kit.errors import InputError, VerificationError
from reparam_kit.exporting import export_onnx
from reparam_kit.onnx.export import Exported

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
    rk.export_onnx(rk.fold(student), tmp_path / "folded.onnx", like=like)
    assert rk.export_onnx(student, out, like=like).folded
    assert out.read_bytes() == (tmp_path / "folded.onnx").read_bytes()
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


class _Rows(nn.Module):
    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.conv, self.fc, self.sizes = nn.Conv2d(3, 4, 3), nn.Linear(144, 5), sizes

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.conv(x).relu().reshape(self.sizes))
        return y


@pytest.mark.parametrize("sizes", [(16, -1), (-1, 144), (16, 144)])
def test_a_file_of_a_batch_of_several(sizes: tuple[int, ...], tmp_path: Path) -> None:
    """Its Reshape is written as it is, though the model takes any number of rows."""
    like, out = tmp_path / "like.onnx", tmp_path / "out.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(_Rows(*sizes).eval(), (torch.randn(16, 3, 8, 8),), like, dynamo=False)
    model = rk.load(like)
    assert model(torch.randn(3, 3, 8, 8)).shape == (3, 5)
    rk.export_onnx(disturb(model), out, like=like)
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
        (Free(), {"like": None}, "say the sizes of the input 'x' of the model"),
        (Free(), {"like": "missing.onnx"}, "missing.onnx: no such file"),
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


@pytest.mark.parametrize(("package", "exporter"), [("onnxsim", "torchscript"), ("onnxscript", "dynamo")])
def test_packages_that_are_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, exporter: str
) -> None:
    like = deploy(build(Free), tmp_path / "like.onnx", exporter, 18)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf'needs {package}: pip install "reparam-kit\[export\]"'):
        rk.export_onnx(Free(nn.Tanh), tmp_path / "out.onnx", like=like, simplify=package == "onnxsim")


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
