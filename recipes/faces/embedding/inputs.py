"""Input presets: what a face net expects of its pixels.

Channel order and normalisation are the commonest silent error of face evaluation: a wrong choice costs tenths of a
percent of accuracy and nothing fails. So the choice has a name or a formula, and every result carries it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from recipes.faces.embedding.formula import parse_formula
from reparam_kit import InputError, Registry

if TYPE_CHECKING:
    import torch

_ORDER = re.compile(r",\s*(bgr|grey)\s*$")
_BGR, _GREY = "-bgr", "-grey"
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class InputPreset:
    """``(x - mean) / std`` per channel, in 0..255 units.

    ``mean`` and ``std`` are given in RGB order. Images of one channel are taken where they are alike for all three.

    Attributes:
        bgr: the channels are reversed after normalising.
        grey: the net takes one channel: the luminance of RGB.

    Raises:
        InputError: they are not three finite numbers each, or a ``std`` is 0; or ``grey`` has numbers that differ.

    >>> preset = InputPreset("mine", mean=(127.5,) * 3, std=(128.0,) * 3)
    >>> preset(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)).flatten()
    tensor([0.9961, 0.9961, 0.9961])
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False
    grey: bool = False

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std)
        if not (len(self.mean) == len(self.std) == 3 and all(map(math.isfinite, numbers)) and all(self.std)):
            raise InputError(
                f"the input {self.name!r} has mean {self.mean} and std {self.std}: three finite numbers each, the std "
                "not 0"
            )
        if self.grey and (self.bgr or not self.alike):
            raise InputError(
                f"the input {self.name!r} is grey, and has other numbers or another order for red, green and blue"
            )

    @property
    def alike(self) -> bool:
        """Whether its numbers are the same for all three channels."""
        return len(set(self.mean)) == len(set(self.std)) == 1

    @property
    def formula(self) -> str:
        """What :func:`input_preset` reads as this preset, under another name."""
        order = ", bgr" if self.bgr else ", grey" if self.grey else ""
        return f"(x - {_text(self.mean)}) / {_text(self.std)}{order}"

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise pixels in 0..255, uint8 or floating: float32, on the same device.

        Args:
            images: RGB ``[N, 3, H, W]``, or of one channel ``[N, 1, H, W]``; as many channels come out, or one for a
                net that takes greys.

        Raises:
            InputError: they have one channel, and the numbers of red, green and blue differ.
        """
        import torch

        channels = images.shape[1]
        if channels == 1 and not self.alike:
            raise InputError(
                f"the input {self.name!r} has other numbers for red, green and blue, and the images have one channel: "
                "write a formula of one number each, such as '(x - 127.5) / 127.5', or give images of three channels"
            )
        # A copy, and in place from there on: allocating large tensors takes time.
        images = images.to(torch.float32, copy=True)
        if self.grey and channels == 3:
            images = (images * _channels(_LUMINANCE, images.device)).sum(dim=1, keepdim=True)
        numbers = (tuple(part[: images.shape[1]]) for part in (self.mean, self.std))
        mean, std = (_channels(part, images.device) for part in numbers)
        images.sub_(mean).div_(std)
        return images.flip(1) if self.bgr else images

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Return what a net is given of images ``[N, C, H, W]``: uint8 are normalised, floating ones are already."""
        import torch

        return self(images) if images.dtype == torch.uint8 else images.float()

    def prepared_shape(self, images: torch.Size, pixels: bool) -> torch.Size:
        """Return the shape ``[C, H, W]`` in which a net is given an image of shape ``images``, of ``pixels`` or not."""
        import torch

        return torch.Size([1, *images[1:]]) if self.grey and pixels else images


@lru_cache(maxsize=64)
def _channels(numbers: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return a number a channel, ``[1, C, 1, 1]``: to bring it to a GPU waits for all that this has to do before."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(numbers, dtype=torch.float32, device=device).view(1, -1, 1, 1)


def _text(values: tuple[float, float, float]) -> str:
    numbers = [f"{v:g}" if float(f"{v:g}") == v else repr(float(v)) for v in values]
    return numbers[0] if len(set(numbers)) == 1 else f"[{', '.join(numbers)}]"


def _written(name: str, text: str) -> InputPreset:
    ending = _ORDER.search(text)
    order = "" if ending is None else ending[1]
    mean, std = parse_formula(_ORDER.sub("", text))
    return InputPreset(name, mean, std, bgr=order == "bgr", grey=order == "grey")


_RGB = {
    "imagenet": "(x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]",
    "insightface": "(x - 127.5) / 127.5",
    "raw": "x",
    "unit": "x / 255",
}
CHOICES = (
    f"{', '.join(_RGB)}, each also with -bgr or, for nets that take greys, -grey, or a formula such as "
    "'(x - 127.5) / 128' or 'x / 255, bgr'"
)


def _given(name: str, found: Any) -> InputPreset:
    return replace(found, name=name) if isinstance(found, InputPreset) else _written(name, str(found))


PRESETS: Registry[InputPreset] = Registry("input preset", __name__, "reparam_kit.inputs", _given)
"""Every preset of RGB order by its name, each of which there is with ``-bgr`` and, if its numbers are alike for all
channels, with ``-grey``."""
for _name, _formula in _RGB.items():
    PRESETS.add(_name, _written(_name, _formula))


def all_presets() -> list[InputPreset]:
    """List every preset for nets that take RGB, in that order and with its channels reversed."""
    return [preset for name in PRESETS for preset in (PRESETS[name], _ordered(PRESETS[name], _BGR))]


def grey_presets() -> list[InputPreset]:
    """List every preset for nets that take one channel."""
    return [_ordered(PRESETS[name], _GREY) for name in PRESETS if PRESETS[name].alike]


def _ordered(preset: InputPreset, ending: str) -> InputPreset:
    name = preset.name + ending
    if ending == _GREY:
        return replace(preset, name=name, bgr=False, grey=True)
    return replace(preset, name=name, bgr=preset.bgr != (ending == _BGR)) if ending else preset


def input_preset(name: str | InputPreset) -> InputPreset:
    """Find the preset of that name: ``imagenet``, ``insightface``, ``raw``, ``unit``, that of an installed package
    (entry points ``reparam_kit.inputs``), or one of these with ``-bgr`` or ``-grey``; or one itself.

    Any other is written as a formula of a pixel ``x`` in 0..255: ``"(x - 127.5) / 128"``,
    ``"(x / 255 - [0.5, 0.5, 0.4]) / 0.2"``. Lists are in RGB order; ``", bgr"`` at the end reverses the channels, and
    ``", grey"`` makes one of them, for a net that takes one.

    >>> input_preset("insightface").formula
    '(x - 127.5) / 127.5'
    >>> input_preset("x / 255, bgr")(torch.tensor([51.0, 102.0, 255.0]).view(1, 3, 1, 1)).flatten()
    tensor([1.0000, 0.4000, 0.2000])

    Raises:
        InputError: there is no such preset (the message suggests the closest name), or the formula is none.
    """
    if isinstance(name, InputPreset):
        return name
    stem = name.removesuffix(_BGR).removesuffix(_GREY)
    if stem.isidentifier() and stem != "x" and stem in PRESETS:
        return _ordered(PRESETS[stem], name.removeprefix(stem))
    joined = re.sub(r"\s*[,_]\s*", "-", name)
    if joined != name and joined.removesuffix(_BGR).removesuffix(_GREY) in PRESETS:
        raise InputError(f"there is no input preset {name!r}: did you mean {joined!r}?")
    if not re.fullmatch(r"[A-Za-z][\w-]*", name) or re.match(r"x($|-)", name):
        return _written(name, name)
    try:
        return PRESETS[name]
    except InputError as error:
        raise InputError(f"{error} (or write a formula such as '(x - 127.5) / 128')") from error
