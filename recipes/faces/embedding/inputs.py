"""Input presets: what a face net expects of its pixels.

Channel order and normalisation are the commonest silent error of face evaluation: a wrong choice costs tenths of a
percent of accuracy and nothing fails. So the choice has a name or a formula, and every result carries it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from recipes.faces.embedding.formula import parse_formula
from reparam_kit import InputError, Registry

if TYPE_CHECKING:
    import torch

_REVERSED = re.compile(r",\s*bgr\s*$")
_BGR = "-bgr"


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

        # A copy, and in place from there on: allocating large tensors takes time.
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
CHOICES = (
    f"{', '.join(_RGB)}, each also with -bgr, or a formula such as '(x - 127.5) / 128' or 'x / 255, bgr'"
)


def _given(name: str, found: Any) -> InputPreset:
    return replace(found, name=name) if isinstance(found, InputPreset) else _written(name, str(found))


PRESETS: Registry[InputPreset] = Registry("input preset", __name__, "reparam_kit.inputs", _given)
"""Every preset of RGB order by its name, each of which there is with ``-bgr`` too."""
for _name, _formula in _RGB.items():
    PRESETS.add(_name, _written(_name, _formula))


def all_presets() -> list[InputPreset]:
    """List every preset, in RGB order and with its channels reversed."""
    return [preset for name in PRESETS for preset in (PRESETS[name], _reversed(PRESETS[name]))]


def _reversed(preset: InputPreset) -> InputPreset:
    return replace(preset, name=preset.name + _BGR, bgr=not preset.bgr)


def input_preset(name: str | InputPreset) -> InputPreset:
    """Find the preset of that name: ``imagenet``, ``insightface``, ``raw``, that of an installed package (entry points
    ``reparam_kit.inputs``), or one of these with ``-bgr``; or one itself.

    Any other is written as a formula of a pixel ``x`` in 0..255: ``"(x - 127.5) / 128"``,
    ``"(x / 255 - [0.5, 0.5, 0.4]) / 0.2"``. Lists are in RGB order; ``", bgr"`` at the end reverses the channels.

    >>> input_preset("insightface").formula
    '(x - 127.5) / 127.5'
    >>> input_preset("x / 255, bgr")(torch.tensor([51.0, 102.0, 255.0]).view(1, 3, 1, 1)).flatten()
    tensor([1.0000, 0.4000, 0.2000])

    Raises:
        InputError: there is no such preset (the message suggests the closest name), or the formula is none.
    """
    if isinstance(name, InputPreset):
        return name
    stem = name.removesuffix(_BGR)
    if stem.isidentifier() and stem != "x" and stem in PRESETS:
        return PRESETS[stem] if stem == name else _reversed(PRESETS[stem])
    joined = re.sub(r"\s*[,_]\s*", "-", name)
    if joined != name and joined.removesuffix(_BGR) in PRESETS:
        raise InputError(f"there is no input preset {name!r}: did you mean {joined!r}?")
    if not re.fullmatch(r"[A-Za-z][\w-]*", name) or re.match(r"x($|-)", name):
        return _written(name, name)
    try:
        return PRESETS[name]
    except InputError as error:
        raise InputError(f"{error}; or write a formula such as '(x - 127.5) / 128'") from error
