"""A branch run factor by factor equals its one kernel, for every factor, geometry and norm, in float64.

The reference never touches the algebra's composition: it convolves with each factor's own kernel in turn, on an input
that was padded once.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reparam_kit.algebra import (
    FACTORS,
    NORMS,
    PRESETS,
    Branch,
    Geometry,
    Kernel,
    affine,
    block,
    describe,
    fit,
)
from reparam_kit.algebra.factors import Fixed, Frequency


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *_: int, groups: int = 1) -> Tensor:
    """A layer without taps: each group of channels by its own matrix."""
    parts = zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)
    out = torch.cat([part @ matrix.T for part, matrix in parts], 1)
    return out if bias is None else out + bias


CONV = {0: lambda *a: linear(*a[:3], groups=a[-1]), 1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

# How each factor is written in a chain that fits a site of 5 taps a side. A new factor appears by its bare name.
WRITTEN = {
    "conv": [
        "2 * conv(k)",
        "conv(1)",
        "conv(3)",
        "conv(3, width=2) >> conv(1)",
        "conv(1) >> conv(3, width=2) >> conv(3)",
    ],
    "dilated": ["dilated(3, rate=2)", "conv(1) >> dilated(2, rate=3)"],
    "depthwise": ["depthwise(k, width=3) >> conv(1)", "conv(1) >> depthwise(3)", "depthwise(3) >> conv(3)"],
    "frequency": ["conv(1) >> frequency(k)", "frequency(3) >> conv(3)"],
    "avg": ["conv(1) >> avg(k)", "avg(3) >> conv(3)", "conv(3) >> avg(2)"],
}
CHAINS = [
    chain for name in FACTORS for chain in WRITTEN.get(name, [f"conv(1) >> {name}", f"{name} >> conv(1)"])
]


@dataclass(frozen=True)
class Place:
    """A site in float64 with everything that a convolution layer may have."""

    dimensions: int
    channels: tuple[int, int]
    groups: int = 1
    stride: int = 1
    dilation: int = 1

    def site(self, taps: int | tuple[int, ...] = 5) -> Geometry:
        sizes = (taps,) * self.dimensions if isinstance(taps, int) else taps
        return Geometry(*self.channels, sizes, self.groups)


PLACES = [
    Place(2, (4, 6)),
    Place(2, (4, 6), groups=2),
    Place(2, (4, 4), groups=4),
    Place(2, (4, 8), groups=4, stride=2),
    Place(2, (3, 5), stride=2, dilation=2),
    Place(1, (4, 6), dilation=3),
    Place(3, (2, 4), groups=2),
    Place(0, (4, 6)),
]


def randomise(branch: Branch) -> None:
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.normal_()
        for module in branch.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)


def run_factors(branch: Branch, x: Tensor, place: Place) -> Tensor:
    conv = CONV[place.dimensions]
    for i, (factor, shape) in enumerate(branch.chain):
        parameter = getattr(branch, f"factor{i}")
        kernel = factor.kernel(shape, x) if isinstance(factor, Fixed) else factor.kernel(parameter, shape)
        stride = place.stride if i == len(branch.chain) - 1 else 1
        x = conv(x, kernel.weight, None, stride, 0, place.dilation, kernel.groups)
        if branch.norm == "batch":
            x = branch.norms[i](x)
    if branch.norm == "scale":
        x = x * branch.scale.reshape(-1, *[1] * place.dimensions)
    return x


def error_of_kernel(branch: Branch, place: Place) -> float:
    branch.eval()
    size = [place.dilation * (taps - 1) + 4 for taps in branch.taps]
    x = torch.randn(2, place.channels[0], *size, dtype=torch.float64)
    with torch.no_grad():
        expected = run_factors(branch, x, place)
        kernel: Kernel = branch.kernel()
        got = CONV[place.dimensions](
            x, kernel.weight, kernel.bias, place.stride, 0, place.dilation, kernel.groups
        )
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("text", CHAINS)
def test_one_kernel_equals_factor_by_factor(text: str, place: Place, norm: str) -> None:
    chains, reasons = fit(block(text), place.site(), norm)
    if not chains:
        pytest.skip(f"does not fit: {reasons or 'it is the deployed kernel'}")
    branch = NORMS[norm](chains[0], torch.randn(place.site().weight_shape, dtype=torch.float64))
    randomise(branch)
    assert error_of_kernel(branch, place) < 1e-12


@pytest.mark.parametrize("taps", [(3,), (3, 3), (1, 4), (1, 1), (2, 3, 3)])
def test_every_frequency_filter_lets_something_through(taps: tuple[int, ...]) -> None:
    kernel = Frequency("k").kernel(Geometry(24, 24, taps, groups=24), torch.zeros((), dtype=torch.float64))
    assert kernel.weight.shape == (24, 1, *taps)
    assert (kernel.weight.flatten(1).norm(dim=1) > 0.5).all()
    if max(taps) > 1:
        assert kernel.weight.flatten(1).sum(1).abs().max() < 1e-12, "a frequency above 0 has no mean"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["conv(1)", "conv(2)", "conv(3)", "avg(2)", "depthwise(2)", "identity"]),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 3),
    st.sampled_from([1, 2]),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from(list(NORMS)),
)
def test_any_chain_of_factors(
    factors: list[str], dimensions: int, groups: int, stride: int, dilation: int, norm: str
) -> None:
    place = Place(dimensions, (4, 4), groups, stride, dilation)
    chains, _ = fit(block(" >> ".join(factors)), place.site(9), norm)
    for chain in chains:
        branch = NORMS[norm](chain, torch.randn(place.site(9).weight_shape, dtype=torch.float64))
        randomise(branch)
        assert error_of_kernel(branch, place) < 1e-12


@pytest.mark.parametrize("taps", [(), (5,), (1, 1), (2, 2), (3, 3), (4, 4), (1, 3), (3, 5), (7, 7)])
@pytest.mark.parametrize("name", PRESETS)
def test_every_branch_of_every_preset_starts_at_zero_and_alive(name: str, taps: tuple[int, int]) -> None:
    site = Geometry(4, 4, taps)
    for norm in NORMS:
        chains, _ = fit(block(name), site, norm)
        for chain in chains:
            branch = NORMS[norm](chain, torch.randn(site.weight_shape))
            kernel = branch.kernel()
            assert not kernel.weight.any()
            (kernel.weight * torch.randn_like(kernel.weight)).sum().backward()
            assert any(p.grad is not None and p.grad.any() for p in branch.parameters()), branch


def test_identity_of_a_grouped_site_stays_in_its_group() -> None:
    site = Geometry(6, 6, (3, 3), groups=2)
    chains, _ = fit(block("conv(k) + identity"), site, "scale")
    branch = NORMS["scale"](chains[0], torch.randn(site.weight_shape, dtype=torch.float64))
    nn.init.ones_(branch.scale)
    kernel = Kernel(torch.zeros(site.weight_shape, dtype=torch.float64), 2).plus([branch.kernel()])
    x = torch.randn(1, 6, 8, 8, dtype=torch.float64)
    assert torch.equal(F.conv2d(x, kernel.weight, padding=1, groups=2), x)


@pytest.mark.parametrize(
    ("text", "site", "count", "reason"),
    [
        ("conv(k)", Geometry(4, 4, (3, 3)), 0, None),
        ("4 * conv(k)", Geometry(4, 4, (3, 3)), 3, None),
        ("conv(k) + conv(1)", Geometry(4, 4, (1, 1)), 0, "the same here"),
        ("dbb", Geometry(4, 4, (1, 1)), 1, "the same here"),
        ("conv(k) + identity", Geometry(4, 6, (3, 3)), 0, "gives 4 channels, the site gives 6"),
        ("conv(k) + conv(5)", Geometry(4, 4, (3, 3)), 0, "spans 5x5 taps, the site has 3x3"),
        ("conv(k) + sobel_x", Geometry(4, 4, (3,)), 0, "3x3 filter, the site has 1 dimensions"),
        ("conv(k) + conv(1, k)", Geometry(4, 4, (3,)), 0, "has 2 dimensions, the site has 1"),
        ("expandnet", Geometry(4, 8, (3, 3)), 1, None),
    ],
)
def test_what_fits_and_why_not(text: str, site: Geometry, count: int, reason: str | None) -> None:
    chains, reasons = fit(block(text), site, "scale")
    assert len(chains) == count
    assert (reason is None and not reasons) or reason in " ".join(reasons)


def test_channels_inside_chains_follow_the_papers() -> None:
    site = Geometry(8, 16, (3, 3))
    (expandnet,), _ = fit(block("expandnet"), site, "none")
    assert [link.shape.out_channels for link in expandnet] == [32, 64, 16]
    depthwise = Geometry(8, 8, (3, 3), groups=8)
    chains, _ = fit(block("conv(k) + conv(1) >> conv(k)"), depthwise, "none")
    assert chains[0][0].shape == Geometry(8, 16, (1, 1), groups=8)


@pytest.mark.parametrize("affine_norm", [True, False])
def test_batch_norm_as_factor_and_shift(affine_norm: bool) -> None:
    norm = nn.BatchNorm2d(3, affine=affine_norm).double().eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    if affine_norm:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    factor, shift = affine(norm)
    torch.testing.assert_close(
        x * factor[:, None, None] + shift[:, None, None], norm(x), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize(
    "text", ["dbb", "ecb", "orepa", "doconv", "mobileone", "dilated", "conv(3) >> avg(2) >> conv(1)"]
)
def test_scale_is_in_units_of_the_deployed_kernel(text: str, place: Place) -> None:
    site = Geometry(16 * place.channels[0], 16 * place.channels[1], place.site().taps, place.groups)
    deployed = torch.randn(site.weight_shape) * torch.rand(site.out_channels, *[1] * (place.dimensions + 1))
    wanted = deployed.flatten(1).norm(dim=1)
    for chain in fit(block(text), site, "scale")[0]:
        kernel = Kernel(torch.zeros_like(deployed), site.groups).plus(
            [NORMS["scale"](chain, deployed).product()]
        )
        ratio = kernel.weight.flatten(1).norm(dim=1) / wanted
        if any(not isinstance(link.factor, Fixed) for link in chain):
            assert 0.8 < ratio.square().mean().sqrt() < 1.25, describe(chain)
