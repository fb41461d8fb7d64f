"""A model file that was damaged or changed is refused in one line, or read as what it was: never as another model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from damage import DAMAGE, Damage
from hypothesis import given, settings
from nets import Plain, build, disturb
from onnx import numpy_helper
from test_formats import small_onnx
from torch import nn
from wrong_files import assert_one_line

import reparam_kit as rk
from reparam_kit.record import repeat


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


def resealed(folder: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The archive with a change, and the checksum of what it is now."""
    content = torch.load(folder / "student.pt", weights_only=True)
    change(content)
    del content["sha256"]
    torch.save({**content, "sha256": rk.fingerprint(content)}, path)
    return path


@pytest.mark.parametrize("change", [missing_tensor, extra_tensor])
def test_parts_that_are_not_of_one_expansion_are_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = resealed(folder, tmp_path / "student.pt", change)
    with pytest.raises(
        rk.InputError, match=r"student\.pt does not hold together: .* RuntimeError: Error\(s\)"
    ):
        rk.load(path)


ODD: list[Any] = [None, 3, -1.5, True, "text", b"bytes", [], [1], {"a": 1}, {1: {}}, torch.zeros(2), [[[]]]]
PLACES = [
    ("onnx",),
    ("external",),
    ("external", "weights.bin"),
    ("record",),
    ("record", "restored"),
    ("record", "restored", "nowhere"),
    ("record", "expanded"),
    ("record", "expanded", "nowhere"),
    ("record", "expanded", 3),
    ("record", "expanded", "stem"),
    *[("record", "expanded", "stem", i) for i in range(4)],
    ("state",),
    ("state", "stem.branches.0.factor0"),
    ("state", "nowhere"),
    ("state", 3),
]
ALLOWED = {("external", "weights.bin"): bytes} | {("record", "expanded", "stem", i): str for i in (2, 3)}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: "/".join(map(str, place)))
def test_a_wrong_type_anywhere_is_a_line(folder: Path, tmp_path: Path, place: tuple[Any, ...]) -> None:
    def put(content: Any, value: Any) -> None:
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    for value in ODD:
        if isinstance(value, ALLOWED.get(place, ())) or (place[-1], value) == (3, None):
            continue
        path = resealed(folder, tmp_path / "student.pt", partial(put, value=value))
        with pytest.raises(rk.ReparamError) as refused:
            rk.load(path)
        assert_one_line(str(refused.value), r"student\.pt does not hold together: ")


def block(text: str) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> None:
        for arguments in content["record"]["expanded"].values():
            arguments[0] = text

    return change


def other_net(content: dict[str, Any]) -> None:
    other = onnx.load_from_string(content["onnx"])
    for tensor in other.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((2, 3, 3, 3), np.float32), tensor.name))
    content["onnx"] = other.SerializeToString()


def other_shape(content: dict[str, Any]) -> None:
    name = next(iter(content["state"]))
    content["state"][name] = content["state"][name].flatten()[:1]


def views(content: dict[str, Any]) -> None:
    content["state"][next(iter(content["state"]))] = torch.zeros(1).expand(1 << 10, 1 << 10)


def overlapping(content: dict[str, Any]) -> None:
    stored = torch.zeros(1 << 12)
    content["state"] |= {f"extra{i}": stored[i:] for i in range(64)}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (block("100 * conv(1)"), "layer 'stem' has branches for which there are no weights"),
        (block("+".join(["conv(1)"] * 200)), "more than 100"),
        (block("conv(" + "9" * 5000 + ")"), "block expression"),
        (block("conv(1, width=100) >> conv(k)"), "no weights"),
        (block("(" * 5000), "ValueError"),
        (other_net, "Error"),
        (other_shape, "size mismatch"),
        (views, "larger than what is stored"),
        (overlapping, "larger than what is stored"),
    ],
)
def test_more_than_the_file_holds_is_refused_before_it_is_made(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    with pytest.raises(rk.InputError) as refused:
        rk.load(resealed(folder, tmp_path / "student.pt", change))
    assert_one_line(str(refused.value), rf"student\.pt does not hold together: .*{says}")
    assert len(str(refused.value)) < 600 + len(str(tmp_path))


def test_branches_are_held_against_the_weights_before_any_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the record asks for would be 6 GiB."""
    monkeypatch.setattr(rk.algebra.Expanded, "__init__", lambda *_: pytest.fail("one is made"))
    net = nn.Sequential(nn.Conv2d(4096, 4096, 1, bias=False, device="meta"))
    recorded = {"restored": {}, "expanded": {"0": ["99 * conv(1)", "none", "0", None]}}
    with pytest.raises(ValueError, match="layer '0' has branches for which there are no weights"):
        repeat(net, recorded, [torch.zeros(4096)] * 200)


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
