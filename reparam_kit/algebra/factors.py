"""The linear factors that a chain is made of. A new factor is one class here; parser and tests find it by its name.

A factor says how many taps it has, how many channels come out and its kernel, and if it has a parameter, how that
starts. Sizes are numbers of taps or ``"k"``, the site's own; one size serves all dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from reparam_kit.algebra.expression import Factor
from reparam_kit.algebra.kernel import Geometry, Kernel
from reparam_kit.errors import ExpressionError

Size = int | Literal["k"]
_MOST = 100  # of an option, such as width: text may ask for any


class Misfit(Exception):
    """A chain that cannot stand at a site; its text says why."""


def _random(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device).div_(prod(shape[1:]) ** 0.5)


@dataclass(frozen=True)
class Trained(Factor):
    """A factor with a parameter."""

    def parameter_shape(self, shape: Geometry) -> tuple[int, ...]:
        """Give the shape of the parameter: that of the kernel, if it is the kernel."""
        return shape.weight_shape

    def start(self, shape: Geometry, like: Tensor) -> Tensor:
        """Give the parameter at its start: each output channel a random kernel of norm 1, on average.

        In the dtype and on the device of ``like``.
        """
        return _random(self.parameter_shape(shape), like)

    def kernel(self, parameter: Tensor, shape: Geometry) -> Kernel:
        """Give the kernel that a value of the parameter stands for."""
        raise NotImplementedError


@dataclass(frozen=True)
class Fixed(Factor):
    """The same filter on every channel, not trained."""

    def filter(self, taps: tuple[int, ...]) -> Tensor:
        """Return the filter, float64, of shape ``taps``."""
        raise NotImplementedError

    def gain(self, shape: Geometry) -> float:
        filters = self.kernel(shape, torch.zeros(())).weight
        return float(filters.square().sum().div(shape.in_channels).sqrt())

    def kernel(self, shape: Geometry, like: Tensor) -> Kernel:
        """Give the kernel, in the dtype and on the device of ``like``."""
        weight = self.filter(shape.taps).to(like).expand(shape.in_channels, 1, *shape.taps)
        return Kernel(weight, shape.in_channels)


@dataclass(frozen=True, init=False)
class Sized(Factor):
    """A factor written with sizes: ``Conv("k")``, ``Conv(1, "k")``; in text ``conv(k)``, ``conv(1, k)``.

    Raises ExpressionError for a size or an option that is no positive number, and for an unknown option.
    """

    size: tuple[Size, ...]

    def __init__(self, *size: Size, **options: int) -> None:
        defaults = {field.name: field.default for field in fields(self) if field.name != "size"}
        if not size or not options.keys() <= defaults.keys():
            usage = ", ".join(["size, ...", *(f"{option}=N" for option in defaults)])
            raise ExpressionError(f"{self.name} is written {self.name}({usage})")
        if any(number != "k" and number < 1 for number in (*size, *options.values())):
            raise ExpressionError(f"{self.name}: sizes and options are positive numbers (a size may be k)")
        if any(number > _MOST for number in options.values()):
            raise ExpressionError(f"{self.name}: options are at most {_MOST}")
        for field, value in {"size": size, **defaults, **options}.items():
            object.__setattr__(self, field, value)

    def taps(self, site: Geometry) -> tuple[int, ...]:
        sizes = self.size * len(site.taps) if len(self.size) == 1 else self.size
        if len(sizes) != len(site.taps):
            raise Misfit(f"{self} has {len(sizes)} dimensions, the site has {len(site.taps)}")
        return tuple(own if size == "k" else size for size, own in zip(sizes, site.taps, strict=True))

    def __str__(self) -> str:
        options = [(field.name, getattr(self, field.name)) for field in fields(self) if field.name != "size"]
        written = [*map(str, self.size), *(f"{name}={value}" for name, value in options if value is not None)]
        return f"{self.name}({', '.join(written)})"


@dataclass(frozen=True, init=False)
class Conv(Sized, Trained, name="conv"):
    """A convolution with the site's groups.

    ``width`` multiplies its channels where it is not the last convolution of its chain: those of the site's input for
    a 1x1, of its output for larger ones. Default 1, and 2 at depthwise sites (as DBB does).
    """

    mixes: ClassVar[bool] = True
    width: int | None = None

    def out_channels(self, in_channels: int, site: Geometry) -> int:
        width = self.width or (2 if site.groups == site.out_channels > 1 else 1)
        return width * (site.in_channels if prod(self.taps(site)) == 1 else site.out_channels)

    def kernel(self, parameter: Tensor, shape: Geometry) -> Kernel:
        return Kernel(parameter, shape.groups)


@dataclass(frozen=True, init=False)
class Dilated(Sized, Trained, name="dilated"):
    """A convolution of ``size`` taps that lie ``rate`` apart on the site's tap grid (UniRepLKNet, CVPR 2024, eq. 1)."""

    mixes: ClassVar[bool] = True
    rate: int = 2

    def taps(self, site: Geometry) -> tuple[int, ...]:
        return tuple((tap - 1) * self.rate + 1 for tap in super().taps(site))

    def parameter_shape(self, shape: Geometry) -> tuple[int, ...]:
        return (*shape.weight_shape[:2], *((tap - 1) // self.rate + 1 for tap in shape.taps))

    def kernel(self, parameter: Tensor, shape: Geometry) -> Kernel:
        weight = parameter.new_zeros(shape.weight_shape)
        every = (slice(None, None, self.rate),) * len(shape.taps)
        weight[:, :, *every] = parameter
        return Kernel(weight, shape.groups)


@dataclass(frozen=True, init=False)
class Depthwise(Sized, Trained, name="depthwise"):
    """A convolution of each channel by itself, ``width`` outputs for each input."""

    width: int = 1

    def out_channels(self, in_channels: int, site: Geometry) -> int:
        return in_channels * self.width

    def kernel(self, parameter: Tensor, shape: Geometry) -> Kernel:
        return Kernel(parameter, shape.in_channels)


@dataclass(frozen=True)
class Identity(Fixed, name="identity"):
    """The input itself."""

    def filter(self, taps: tuple[int, ...]) -> Tensor:
        return torch.ones(taps, dtype=torch.float64)


@dataclass(frozen=True, init=False)
class Avg(Sized, Fixed, name="avg"):
    """Average pooling that counts the padding (``count_include_pad=True``)."""

    def filter(self, taps: tuple[int, ...]) -> Tensor:
        return torch.full(taps, 1 / prod(taps), dtype=torch.float64)


@dataclass(frozen=True, init=False)
class Frequency(Sized, Fixed, name="frequency"):
    """Cosine filters, a frequency and a direction for each channel (OREPA, CVPR 2022, "frequency prior").

    The channels go through the axes, and along an axis of ``k`` taps through the frequencies ``1 .. k - 1`` of its
    DCT-II basis. OREPA's own code lets the frequency rise with the channel without end: every one that is an odd
    multiple of ``k`` is then a filter of zeros.
    """

    def kernel(self, shape: Geometry, like: Tensor) -> Kernel:
        return Kernel(_waves(shape.in_channels, shape.taps).to(like), shape.in_channels)


@lru_cache(maxsize=256)
def _waves(channels: int, taps: tuple[int, ...]) -> Tensor:
    """Return the filters of ``Frequency``, float64 ``[channels, 1, *taps]``."""
    weight = torch.ones(channels, 1, *taps, dtype=torch.float64)
    axes = [axis for axis, extent in enumerate(taps) if extent > 1]
    for channel, filter in enumerate(weight[:, 0] if axes else ()):
        axis = axes[channel % len(axes)]
        extent = taps[axis]
        frequency = 1 + channel // len(axes) % (extent - 1)
        wave = torch.cos(torch.pi / extent * frequency * (torch.arange(extent, dtype=torch.float64) + 0.5))
        filter.copy_(wave.reshape(-1, *[1] * (len(taps) - 1 - axis)))
    return weight


@dataclass(frozen=True)
class Plane(Fixed):
    """A 3x3 filter, for sites of two dimensions."""

    weights: ClassVar[list[list[float]]]

    def taps(self, site: Geometry) -> tuple[int, ...]:
        if len(site.taps) != 2:
            raise Misfit(f"{self} is a 3x3 filter, the site has {len(site.taps)} dimensions")
        return (3, 3)

    def filter(self, taps: tuple[int, ...]) -> Tensor:
        return torch.tensor(self.weights, dtype=torch.float64)


@dataclass(frozen=True)
class SobelX(Plane, name="sobel_x"):
    """Horizontal Sobel derivative (ECBSR, ACM MM 2021, eq. 5)."""

    weights: ClassVar[list[list[float]]] = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]


@dataclass(frozen=True)
class SobelY(Plane, name="sobel_y"):
    """Vertical Sobel derivative (ECBSR, ACM MM 2021, eq. 5)."""

    weights: ClassVar[list[list[float]]] = [[1, 2, 1], [0, 0, 0], [-1, -2, -1]]


@dataclass(frozen=True)
class Laplacian(Plane, name="laplacian"):
    """Four-neighbour Laplacian (ECBSR, ACM MM 2021, eq. 8)."""

    weights: ClassVar[list[list[float]]] = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
