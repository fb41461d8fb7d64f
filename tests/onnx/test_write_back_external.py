"""Trained weights that lie in files of their own: new ones beside the new model, the original's untouched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx_models import SHAPES, net, raw, save, save_external, without_payloads
from trained import initializers, parameter, train

from reparam_kit.errors import InputError, VerificationError
from reparam_kit.onnx import diff, import_onnx, write_back


@pytest.mark.parametrize("one_file", [True, False], ids=["one data file", "a file for each tensor"])
def test_external_data(tmp_path: Path, one_file: bool) -> None:
    source = tmp_path / "source"
    source.mkdir()
    original = save_external(net(), source / "original.onnx", one_file=one_file)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    model = train(import_onnx(original))
    new = source / "new.onnx"
    write_back(model, new)

    assert {name: (source / name).read_bytes() for name in before} == before
    written = {path.name: len(path.read_bytes()) for path in source.iterdir() if path.name not in before}
    data = ["new.onnx.data"] if one_file else [f"new.onnx.{i}.data" for i in range(len(before) - 1)]
    assert sorted(written) == ["new.onnx", *data]
    assert sorted(written[name] for name in data) == sorted(
        len(before[n]) for n in before if n != "original.onnx"
    )
    assert without_payloads(new) == without_payloads(original)
    assert diff(original, new).same_graph
    again = onnx.load(new)  # with its external data
    for tensor in again.graph.initializer:
        assert torch.from_numpy(numpy_helper.to_array(tensor).copy()).equal(
            parameter(model, tensor.name).detach()
        )
    onnxruntime.InferenceSession(new)


def test_external_data_in_another_folder_and_over_the_original(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    original = save_external(net(), tmp_path / "a" / "net.onnx", "net.onnx.data")
    model = train(import_onnx(original))
    write_back(model, tmp_path / "b" / "net.onnx")
    write_back(model, original)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["net.onnx", "net.onnx.data"]
    for name in ("net.onnx", "net.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_originals_data_file_is_not_overwritten(tmp_path: Path) -> None:
    original = save_external(net(), tmp_path / "old.onnx", "new.onnx.data")
    before = (tmp_path / "new.onnx.data").read_bytes()
    with pytest.raises(
        InputError, match=r"would overwrite the external data of .*old\.onnx; choose another name"
    ):
        write_back(train(import_onnx(original)), tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx.data").read_bytes() == before
    assert not (tmp_path / "new.onnx").exists()


def test_the_checksum_of_external_data_is_brought_up_to_date(tmp_path: Path) -> None:
    original = save_external(net(), tmp_path / "original.onnx")
    proto = onnx.load(original, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data.add(
            key="checksum", value=hashlib.sha1((tmp_path / "weights.bin").read_bytes()).hexdigest()
        )
    write_back(train(import_onnx(save(proto, original))), tmp_path / "new.onnx")
    expected = hashlib.sha1((tmp_path / "new.onnx.data").read_bytes()).hexdigest()
    for tensor in initializers(tmp_path / "new.onnx").values():
        assert {entry.value for entry in tensor.external_data if entry.key == "checksum"} == {expected}


@pytest.mark.parametrize("trained", [("conv_b",), ("conv_b", "fc_b")], ids=["one", "both"])
def test_overlapping_external_data(tmp_path: Path, trained: tuple[str, ...]) -> None:
    """Two biases that were equal and share bytes cannot become different."""
    proto = net()
    for tensor in proto.graph.initializer:
        if tensor.name in ("conv_b", "fc_b"):
            tensor.CopyFrom(raw(TensorProto.FLOAT)(tensor.name, torch.ones(SHAPES[tensor.name])))
    original = save_external(proto, tmp_path / "original.onnx")
    proto = onnx.load(original, load_external_data=False)
    entries = {tensor.name: tensor.external_data for tensor in proto.graph.initializer}
    for entry, other in zip(entries["conv_b"], entries["fc_b"], strict=True):
        if entry.key == "offset":
            entry.value = other.value
    model = import_onnx(save(proto, original))
    for number, name in enumerate(trained, start=2):
        parameter(model, name).data.fill_(number)
    with pytest.raises(VerificationError, match=r"_b' would not hold what the model holds.*overlaps"):
        write_back(model, tmp_path / "new.onnx")
    assert not (tmp_path / "new.onnx").exists()
