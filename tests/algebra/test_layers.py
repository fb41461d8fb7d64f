"""Settings of a layer that were changed after it was made count as torch takes them."""

from __future__ import annotations

import pytest
import torch
from nets import disturb
from torch import Tensor, nn

import reparam_kit as rk
from reparam_kit.algebra import NORMS

X = torch.randn(2, 4, 13, 13, dtype=torch.float64)


def error(net: nn.Module, norm: str, x: Tensor = X) -> float:
    """Of the fold of a student that starts from the same function, in float64."""
    student = rk.expand(net, "dbb", norm)
    assert torch.equal(student(x), net(x))
    disturb(student).eval()
    return ((rk.fold(student)(x) - student(x)).abs().max() / student(x).abs().max()).item()


SETTINGS: dict[str, dict[str, object]] = {
    "dilated as for segmentation": {"dilation": (2, 2), "padding": (2, 2)},
    "no padding": {"padding": (0, 0), "stride": (2, 2)},
    "wider padding, same size": {"padding": (2, 2), "stride": (3, 3)},
    "one number for all": {"padding": 2, "stride": 3, "dilation": 1},
    "a tuple of one": {"padding": (2,), "stride": (2,), "dilation": (2,)},
    "same": {"padding": "same", "dilation": (2, 1)},
    "valid": {"padding": "valid"},
    "circular": {"padding_mode": "circular"},
    "reflected, padding too late": {"padding_mode": "reflect", "padding": (4, 4)},
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_changed_before_and_after_expanding(settings: dict[str, object], norm: str) -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1)).double()
    student = disturb(rk.expand(net, "dbb", norm)).eval()
    for name, value in settings.items():
        setattr(net[0], name, value)
        setattr(student[0], name, value)
    assert error(net, norm) < 1e-12
    assert student(X).shape == net(X).shape
    torch.testing.assert_close(rk.fold(student)(X), student(X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_transposed_layer_with_one_number_for_all(norm: str) -> None:
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, padding=1)).double()
    net[0].stride, net[0].dilation = 2, 2
    assert error(net, norm) < 1e-12


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 8, 3), (8, 4, 3, 3)),
        (nn.Conv2d(3, 8, 3), (6, 3, 3, 3)),
        (nn.Conv2d(3, 8, 3), (8, 3, 5, 5)),
        (nn.ConvTranspose2d(4, 8, 3, groups=2), (4, 3, 3, 3)),
        (nn.Linear(3, 8), (6, 3)),
    ],
)
def test_a_weight_of_another_shape_than_the_settings_say_is_a_reason(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    assert rk.inspect(layer)[0].reason is None
    layer.weight = nn.Parameter(torch.zeros(shape))
    reason = rk.inspect(layer)[0].reason
    assert reason is not None
    assert reason.startswith(f"its weight is {shape}, where its settings say ")
