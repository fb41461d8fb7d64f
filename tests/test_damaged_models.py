"""A model file that was damaged or changed is refused in one line, or read as what it was: never as another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import DAMAGE, Damage
from hypothesis import given, settings
from nets import Plain, build, disturb
from test_formats import small_onnx
from torch import nn
from wrong_files import assert_one_line

import reparam_kit as rk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    w = tmp_path_factory.mktemp("models")
    rk.save(disturb(rk.expand(rk.load(small_onnx(w / "deployed.onnx")), "dbb", "batch")), w / "student.pt")
    rk.save(disturb(rk.expand(build(Plain), "dbb", "batch")), w / "student.safetensors")
    rk.save(disturb(build(Plain)), w / "plain.safetensors")
    torch.save(build(Plain).state_dict(), w / "weights.pt")
    return w


def read(path: Path) -> nn.Module:
    if path.name == "student.pt":
        return rk.load(path)
    return rk.load("nets:Plain", weights=path)


def state(model: nn.Module) -> dict[str, Any]:
    return {"record": str(model), **model.state_dict()}


def outcome(path: Path) -> dict[str, Any] | str:
    """What is read, or the line that says why nothing is."""
    try:
        return state(read(path))
    except rk.ReparamError as error:
        return str(error)


@pytest.mark.parametrize("name", ["student.pt", "student.safetensors", "plain.safetensors", "weights.pt"])
def test_damage_gives_the_same_model_or_a_line(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    content, whole = (folder / name).read_bytes(), state(read(folder / name))
    path = tmp_path_factory.mktemp("damaged") / name

    @settings(max_examples=60)
    @given(DAMAGE)
    def check(damage: Damage) -> None:
        path.write_bytes(damage(content))
        found = outcome(path)
        if isinstance(found, str):
            assert_one_line(found, rf"{name}|nets:Plain")
            return
        assert found.keys() == whole.keys()
        assert found.pop("record") == whole["record"]
        assert all(torch.equal(tensor, whole[key]) for key, tensor in found.items())

    check()


def other_weights(content: dict[str, Any]) -> None:
    next(iter(content["state"].values())).add_(1)


def missing_tensor(content: dict[str, Any]) -> None:
    del content["state"][next(iter(content["state"]))]


def extra_tensor(content: dict[str, Any]) -> None:
    content["state"]["extra"] = torch.zeros(1)


def swapped_tensors(content: dict[str, Any]) -> None:
    state = content["state"]
    first, second = [k for k in state if state[k].shape == next(iter(state.values())).shape][:2]
    state[first], state[second] = state[second], state[first]


def no_checksum(content: dict[str, Any]) -> None:
    del content["sha256"]


def other_block(content: dict[str, Any]) -> None:
    expanded = content["record"]["expanded"]
    expanded[next(iter(expanded))][1] = "scale"


def odd_value(content: dict[str, Any]) -> None:
    content["state"]["odd"] = torch.ones(2).to_sparse()


@pytest.mark.parametrize(
    "change",
    [other_weights, missing_tensor, extra_tensor, swapped_tensors, no_checksum, other_block, odd_value],
)
def test_an_archive_that_was_changed_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    content = torch.load(folder / "student.pt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "student.pt")
    with pytest.raises(rk.InputError, match=r"student\.pt is damaged, or was changed by hand"):
        rk.load(tmp_path / "student.pt")


@pytest.mark.parametrize("change", [missing_tensor, extra_tensor])
def test_parts_that_are_not_of_one_expansion_are_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    content = torch.load(folder / "student.pt", weights_only=True)
    change(content)
    del content["sha256"]
    torch.save({**content, "sha256": rk.fingerprint(content)}, tmp_path / "student.pt")
    with pytest.raises(
        rk.InputError, match=r"student\.pt does not hold together: .* RuntimeError: Error\(s\)"
    ):
        rk.load(tmp_path / "student.pt")


def test_the_format_without_a_checksum_is_refused(folder: Path, tmp_path: Path) -> None:
    content = torch.load(folder / "student.pt", weights_only=True)
    del content["sha256"]
    torch.save({**content, "format": "reparam-kit expanded ONNX model 2"}, tmp_path / "student.pt")
    with pytest.raises(
        rk.InputError, match=r"written by another version of reparam-kit: expand the ONNX file"
    ):
        rk.load(tmp_path / "student.pt")


def test_a_whole_model_is_not_read_as_weights(folder: Path) -> None:
    with pytest.raises(rk.InputError, match="load it by its own name"):
        rk.load("nets:Plain", weights=folder / "student.pt")


def test_the_checksum_of_safetensors_is_checked_before_its_record_is_followed(
    folder: Path, tmp_path: Path
) -> None:
    content = (folder / "student.safetensors").read_bytes()
    (tmp_path / "student.safetensors").write_bytes(content.replace(b"batch", b"scale", 1))
    with pytest.raises(rk.InputError, match=r"student\.safetensors is damaged"):
        rk.load("nets:Plain", weights=tmp_path / "student.safetensors")


def test_a_pickled_module_is_checked_too(tmp_path: Path) -> None:
    net = build(Plain).eval()
    rk.save(net, tmp_path / "net.pt")
    weight = net.state_dict()["stem.conv.weight"].numpy().tobytes()
    content = (tmp_path / "net.pt").read_bytes()
    assert content.count(weight) == 1
    (tmp_path / "net.pt").write_bytes(content.replace(weight, weight[4:] + weight[:4]))
    with pytest.raises(rk.InputError, match=r"net\.pt is damaged: the checksum of its entry '.*/data/\d+'"):
        rk.load(tmp_path / "net.pt", unsafe=True)
