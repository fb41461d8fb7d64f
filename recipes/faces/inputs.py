"""Input presets: what a face net expects of its pixels.

Channel order and normalisation are the commonest silent error of face evaluation: a wrong choice costs tenths of a
percent of accuracy and nothing fails. So the choice has a name, and every result carries it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reparam_kit import InputError, suggestion

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class InputPreset:
    """``(x - mean) / std`` per channel, in 0..255 units; ``bgr`` reverses the channels after normalising.

    ``mean`` and ``std`` are given in RGB order, also where ``bgr`` is set.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise RGB images ``[N, 3, H, W]`` in 0..255, uint8 or floating: float32, same shape and device."""
        import torch

        # A copy, and in place from there on: large tensors are dear to allocate.
        images = images.to(torch.float32, copy=True)
        mean = images.new_tensor(self.mean).view(1, 3, 1, 1)
        std = images.new_tensor(self.std).view(1, 3, 1, 1)
        images.sub_(mean).div_(std)
        return images.flip(1) if self.bgr else images


_RGB = (
    InputPreset("imagenet", (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
    InputPreset("insightface", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    InputPreset("raw", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)
PRESETS = {p.name: p for rgb in _RGB for p in (rgb, replace(rgb, name=f"{rgb.name}-bgr", bgr=True))}


def input_preset(name: str | InputPreset) -> InputPreset:
    """The preset of that name: ``imagenet``, ``insightface``, ``raw``, or one of these with ``-bgr``; or one itself.

    Raises:
        InputError: there is no such preset; the message suggests the closest name.
    """
    if isinstance(name, InputPreset):
        return name
    if name in PRESETS:
        return PRESETS[name]
    raise InputError(f"no input preset is called {name!r}: {suggestion(name, PRESETS, 'presets')}")
