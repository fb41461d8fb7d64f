"""Files that cannot be compared: what is wrong with each, and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx_models import edited, net, save, save_external, tensor

from reparam_kit.errors import InputError
from reparam_kit.onnx import diff


def _no_graph(path: Path) -> None:
    path.write_bytes(b"")


def _truncated(path: Path) -> None:
    path.write_bytes(net().SerializeToString()[:-10])


def _short_tensor(path: Path) -> None:
    save(edited(net(), lambda m: setattr(tensor(m, "conv_b"), "raw_data", b"1234")), path)


def _lost_data(path: Path) -> None:
    save_external(net(), path)
    path.with_name("weights.bin").unlink()


def _short_data(path: Path) -> None:
    save_external(net(), path)
    path.with_name("weights.bin").write_bytes(b"1234")


def _edit_address(path: Path, key: str, value: str) -> None:
    save_external(net(), path)
    model = onnx.load(path, load_external_data=False)
    for entry in tensor(model, "conv_b").external_data:
        if entry.key == key:
            entry.value = value
    save(model, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: None, "a.onnx: no such file"),
        (_no_graph, "a.onnx is not an ONNX model: it has no graph"),
        (_truncated, "a.onnx is not an ONNX model, or is truncated"),
        (_short_tensor, r"tensor 'conv_b' of shape \[4\] is damaged"),
        (_lost_data, "weights.bin: no such file"),
        (_short_data, "keeps tensor 'conv_w' in bytes 0 to 432 of 'weights.bin', which has 4"),
        (lambda path: _edit_address(path, "location", "../secret"), "'../secret', outside its own folder"),
        (
            lambda path: _edit_address(path, "location", "/etc/hostname"),
            "'/etc/hostname', outside its own folder",
        ),
        (lambda path: _edit_address(path, "offset", "x"), "tensor 'conv_b' has a malformed address"),
        (lambda path: _edit_address(path, "offset", "-4"), "tensor 'conv_b' has a negative offset"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "a.onnx"
    spoil(path)
    with pytest.raises(InputError, match=message):
        diff(path, path)


def test_a_parsed_model_with_external_data(tmp_path: Path) -> None:
    model = onnx.load(save_external(net(), tmp_path / "a.onnx"), load_external_data=False)
    with pytest.raises(InputError, match=r"lies in the file 'weights\.bin'; give the model by its path"):
        diff(model, model)
