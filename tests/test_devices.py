"""Devices: the best that is there, why, and what is done where one has no float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import reparam_kit as rk
from reparam_kit import devices


def there(monkeypatch: pytest.MonkeyPatch, *names: str, failing: tuple[str, ...] = ()) -> None:
    """Let torch say that the devices ``names`` are there; a tensor on one of those ``failing`` is an error."""

    def zeros(size: int, device: Any) -> Any:
        if str(device) in failing:
            raise RuntimeError("CUDA error: no kernel image is available\nmore")
        return Held(torch.device(device))

    class Held:
        def __init__(self, place: torch.device) -> None:
            self.device = place

        def cpu(self) -> None: ...

    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "a card")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)
    monkeypatch.setattr(devices.torch, "zeros", zeros)


@pytest.mark.parametrize(
    ("names", "failing", "chosen"),
    [
        (("cuda", "mps"), (), "cuda (a card)"),
        (("mps",), (), "mps (no CUDA)"),
        ((), (), "cpu (no CUDA, no MPS)"),
        (("cuda",), ("cuda",), "cpu (no MPS)"),
        (("cuda", "mps"), ("cuda",), "mps"),
        (("cuda", "mps"), ("cuda", "mps"), "cpu"),
    ],
)
def test_auto_is_the_best_that_works(
    names: tuple[str, ...], failing: tuple[str, ...], chosen: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    there(monkeypatch, *names, failing=failing)
    assert rk.name_device(rk.choose_device()) == chosen
    said = [
        f"{name.upper()} is there and is not used: CUDA error: no kernel image is available"
        for name in failing
    ]
    assert [record.getMessage() for record in caplog.records] == said


@pytest.mark.parametrize("name", ["cudo", "cuda:7", "mps", "meta", "hpu", "xla", "", "cuda:x", "cpu:-1"])
def test_a_device_that_is_not_there_is_named_beside_those_that_are(name: str) -> None:
    if name.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("it may be there")
    with pytest.raises(rk.InputError, match=rf"there is no device '{name}' .*; there are .*cpu$") as caught:
        rk.choose_device(name)
    assert "\n" not in str(caught.value)


def test_surgery_where_there_is_no_float64_is_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval(), torch.randn(2, 3, 8, 8)
    usual = rk.fold(rk.expand(net, calibration=[x], example_inputs=x))
    monkeypatch.setattr(devices, "_WITHOUT_FLOAT64", {"cpu"})
    moved: list[object] = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: moved.append(tensor.shape) or tensor)
    for calibration in ([x], iter([x])):
        student = rk.expand(net, calibration=calibration, example_inputs=x)
        assert moved.count(x.shape) == 2
        moved.clear()
        for name, value in rk.fold(student).state_dict().items():
            assert torch.equal(value, usual.state_dict()[name])
