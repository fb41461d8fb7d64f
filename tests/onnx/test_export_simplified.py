"""The original with a model's weights where one of the two, or both, went through onnxsim."""

from __future__ import annotations

import logging
import sys
from copy import deepcopy
from pathlib import Path

import onnx
import onnxsim
import pytest
from deployed import Free, deploy
from nets import Plain, build, disturb, images
from onnx import ModelProto, helper
from onnx_models import save, save_external, without_payloads
from torch import nn

import reparam_kit as rk
from reparam_kit.errors import InputError, VerificationError
from reparam_kit.exporting import export_onnx
from reparam_kit.onnx.export import Exported


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
