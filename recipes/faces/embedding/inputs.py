"""Input presets: what a face net expects of its pixels.

Channel order and normalisation are the commonest silent error of face evaluation: a wrong choice costs tenths of a
percent of accuracy and nothing fails. So the choice has a name or a formula, and every result carries it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recipes.faces.embedding.formula import parse_formula
from reparam_kit import InputError, suggestion

if TYPE_CHECKING:
    import torch

_REVERSED = re.compile(r",\s*bgr\s*$")


@dataclass(frozen=True)
class InputPreset:
    """``(x - mean) / std`` per channel, in 0..255 units; ``bgr`` reverses the channels after normalising.

    ``mean`` and ``std`` are given in RGB order, also where ``bgr`` is set.

    Raises:
        InputError: they are not three finite numbers each, or a ``std`` is 0.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std)
        if not (len(self.mean) == len(self.std) == 3 and all(map(math.isfinite, numbers)) and all(self.std)):
            raise InputError(
                f"the input {self.name!r} has mean {self.mean} and std {self.std}: three finite numbers each, the std "
                "not 0"
            )

    @property
    def formula(self) -> str:
        """What :func:`input_preset` reads as this preset, under another name."""
        return f"(x - {_text(self.mean)}) / {_text(self.std)}" + (", bgr" if self.bgr else "")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise RGB images ``[N, 3, H, W]`` in 0..255, uint8 or floating: float32, same shape and device."""
        import torch

        # A copy, and in place from there on: large tensors are dear to allocate.
        images = images.to(torch.float32, copy=True)
        mean = images.new_tensor(self.mean).view(1, 3, 1, 1)
        std = images.new_tensor(self.std).view(1, 3, 1, 1)
        images.sub_(mean).div_(std)
        return images.flip(1) if self.bgr else images


def _text(values: tuple[float, float, float]) -> str:
    numbers = [f"{v:g}" if float(f"{v:g}") == v else repr(float(v)) for v in values]
    return numbers[0] if len(set(numbers)) == 1 else f"[{', '.join(numbers)}]"


def _written(name: str, text: str) -> InputPreset:
    formula = _REVERSED.sub("", text)
    return InputPreset(name, *parse_formula(formula), bgr=formula != text)


_RGB = {
    "imagenet": "(x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]",
    "insightface": "(x - 127.5) / 127.5",
    "raw": "x",
}
PRESETS = {
    name + end: _written(name + end, f"{formula}{order}")
    for name, formula in _RGB.items()
    for end, order in (("", ""), ("-bgr", ", bgr"))
}
CHOICES = f"{', '.join(PRESETS)}, or a formula such as '(x - 127.5) / 128' or 'x / 255, bgr'"


def input_preset(name: str | InputPreset) -> InputPreset:
    """The preset of that name: ``imagenet``, ``insightface``, ``raw``, or one of these with ``-bgr``; or one itself.

    Any other is written as a formula of a pixel ``x`` in 0..255: ``"(x - 127.5) / 128"``,
    ``"(x / 255 - [0.5, 0.5, 0.4]) / 0.2"``. Lists are in RGB order; ``", bgr"`` at the end reverses the channels.

    Raises:
        InputError: there is no such preset (the message suggests the closest name), or the formula is none.
    """
    if isinstance(name, InputPreset):
        return name
    if name in PRESETS:
        return PRESETS[name]
    if (joined := re.sub(r"\s*,\s*", "-", name)) in PRESETS:
        raise InputError(f"no input preset is called {name!r}: did you mean {joined!r}?")
    if re.fullmatch(r"[A-Za-z][\w-]*", name) and not re.match(r"x($|-)", name):
        raise InputError(
            f"no input preset is called {name!r}: {suggestion(name, PRESETS, 'presets')}; or write a formula such as "
            "'(x - 127.5) / 128'"
        )
    return _written(name, name)
