"""Which input preset a model wants: all tried on the same examples, and the best held against each other one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from recipes.faces.embedding.inputs import InputPreset, all_presets, grey_presets, input_preset
from recipes.faces.embedding.signature import read_signature
from recipes.faces.images.items import Item, item_image
from recipes.faces.judging.judge import Judge, Model
from recipes.faces.judging.reading import read_judge
from recipes.faces.judging.verdict import Verdict
from recipes.faces.sets.pairs import PairSet
from recipes.faces.sets.templates import TemplateSet
from reparam_kit import InputError

CLEARLY = 1.02  # factor on the separation at which another input preset is called better
_LEVEL = 0.05
_GREY = "the images are grey, and cannot tell the order of the channels"
_ROUNDED = 1.001  # factor on the separation that rounding may cost
_LOOKED_AT = 16  # images, for colours
_CAFFE = ("x - [123.68, 116.779, 103.939]", "x - [123.68, 116.779, 103.939], bgr")


@dataclass(frozen=True)
class FoundInput:
    """How a model does under each input preset, and which one it wants.

    Attributes:
        verdicts: by preset, the best first: by :attr:`Verdict.separation`, of pairs and people d'.
        chances: of each preset but the best the probability that chance alone puts it behind, on the same examples
            drawn; None where the judge does not say.
        left_out: presets under which the model gives no usable embedding, and why.
        grey: whether the images look grey, so that they cannot tell the order of the channels.

    >>> found = find_input("deployed.onnx", "lfw.bin")
    >>> found.wanted is None or found.wanted == found.best
    True
    """

    verdicts: Mapping[str, Verdict]
    chances: Mapping[str, float | None]
    left_out: Mapping[str, str]
    grey: bool = False

    @property
    def best(self) -> str:
        """The preset under which the model separates most."""
        return next(iter(self.verdicts))

    @property
    def alike(self) -> list[str]:
        """Those that are not behind the best by more than chance, the best among them."""
        best = self.verdicts[self.best].separation.goodness
        return [
            self.best,
            *(
                name
                for name, chance in self.chances.items()
                if chance is None
                or chance >= _LEVEL
                or best <= _ROUNDED * self.verdicts[name].separation.goodness
            ),
        ]

    @property
    def wanted(self) -> str | None:
        """The best, where all others are behind it by more than chance; None: that could not be told."""
        return None if len(self.alike) > 1 or self.verdicts[self.best].at_chance() else self.best

    def better(self, asked: str) -> str | None:
        """Return the best, where ``asked`` is behind it clearly, and by more than chance, or gives nothing usable."""
        if asked not in self.verdicts:
            return self.best
        now, best = (self.verdicts[name].separation.goodness for name in (asked, self.best))
        return self.best if asked not in self.alike and best > CLEARLY * now else None

    def told(self) -> str:
        """Say in one line what came of it."""
        best = self.verdicts[self.best]
        by = f"by {best.separation.name}, on {best.subject}"
        if best.at_chance():
            return f"could not tell: under no input does the model do better than chance ({by})"
        if self.wanted is not None:
            return f"the model wants {self.wanted!r} ({by})"
        names = ", ".join(map(repr, self.alike))
        if self.grey:
            by += f"; {_GREY}: try coloured ones"
        untested = None in (self.chances[name] for name in self.alike[1:])
        reason = "the judge does not compare" if untested else "they do not differ by more than chance"
        return f"could not tell between {names}: {reason} ({by})"

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and text, which :meth:`from_state` takes."""
        return {**vars(self), "verdicts": {name: one.state_dict() for name, one in self.verdicts.items()}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> FoundInput:
        """Return what ``state_dict`` was given."""
        verdicts = {name: Verdict.from_state(saved) for name, saved in state["verdicts"].items()}
        return cls(**{**state, "verdicts": verdicts})

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "wanted": self.wanted,
            "alike": self.alike,
            "told": self.told(),
            "decides": self.verdicts[self.best].separation.name,
            "inputs": [
                {"input": name, "chance": self.chances.get(name), **verdict.to_json()}
                for name, verdict in self.verdicts.items()
            ],
            "left_out": dict(self.left_out),
            "grey": self.grey,
        }


def find_input(
    model: Model,
    judge: Judge | PairSet | TemplateSet | str | os.PathLike[str],
    limit: int = 300,
    inputs: Sequence[str | InputPreset] = (),
    embedding: str | None = None,
) -> FoundInput:
    """Find which input preset a model wants: those of its number of channels, and Caffe's means.

    Args:
        model: a module, or the path of an ``.onnx`` file.
        judge: a judge, or a verification set or its file. At most ``limit`` of its examples are used.
        limit: number of examples, of pairs at least 4.
        inputs: presets of one's own to try besides.
        embedding: as in :func:`evaluate`.

    Raises:
        InputError: model or set cannot be used, presets make no difference since the images are normalised already, or
            none gives usable embeddings.

    >>> found = find_input("deployed.onnx", "lfw.bin", inputs=["(x - 127.5) / 128"])
    >>> found.told().startswith(("the model wants", "could not tell"))
    True
    """
    few = read_judge(judge).sample(limit).comparable()
    if not few.takes_presets():
        raise InputError("the images are normalised already: no input preset is applied to them")
    own = list(map(input_preset, inputs))
    try:
        return _find(model, few, [*presets_for(model), *map(input_preset, _CAFFE), *own], embedding)
    except InputError:
        with suppress(InputError):  # a module does not say how many channels it takes
            return _find(model, few, [*grey_presets(), *own], embedding)
        raise


def try_inputs(
    model: Model, judge: Judge, asked: InputPreset, embedding: str | None = None, limit: int = 100
) -> FoundInput | None:
    """Return how a model does under the input ``asked`` for and each preset; None where the judge cannot take a quick
    look at ``limit`` of its examples.

    >>> found = try_inputs("deployed.onnx", PairsJudge("lfw.bin"), input_preset("x / 128"))
    >>> "x / 128" in found.verdicts
    True
    """
    few = judge.sample(limit).comparable()
    quick = type(judge).sample is not Judge.sample and not isinstance(
        getattr(few, "pairs", None), TemplateSet
    )
    if not quick or not few.takes_presets():
        return None
    try:
        return _find(model, few, [*presets_for(model, asked), asked], embedding)
    except InputError:  # the sample is too small, or the model at fault, which whoever judges all of it says
        return None


def input_warning(who: str, found: FoundInput | None, asked: str) -> str | None:
    """Say in one line that ``who`` does better with another input than the one ``asked`` for; None: it does not, or
    nothing was ``found``.

    >>> found = try_inputs("deployed.onnx", PairsJudge("lfw.bin"), input_preset("raw"))
    >>> line = input_warning("the model", found, "raw")
    >>> line is None or line.startswith("the model does better with input ")
    True
    """
    better = None if found is None else found.better(asked)
    if found is None or better is None:
        return None
    now = in_short(found.verdicts[asked]) if asked in found.verdicts else "no usable embedding"
    then = in_short(found.verdicts[better])
    told = f"{who} does better with input {better!r} ({then}) than with {asked!r} as asked for ({now})"
    return f"{told}; {_GREY}" if found.grey else told


def in_short(verdict: Verdict) -> str:
    """Return what decides, what separates, and on what: for messages."""
    figures = dict.fromkeys((verdict.deciding, verdict.separation))
    return f"{', '.join(f'{figure.name} {figure.shown()}' for figure in figures)}; {verdict.subject}"


def _find(model: Model, few: Judge, presets: Sequence[InputPreset], embedding: str | None) -> FoundInput:
    verdicts, left_out = _judged(model, few, presets, embedding)
    best = next(iter(verdicts.values()))
    chances = {name: _chance(few, verdict, best) for name, verdict in list(verdicts.items())[1:]}
    return FoundInput(verdicts, chances, left_out, all(map(_is_grey, few.images(_LOOKED_AT))))


def _is_grey(item: Item) -> bool:
    image = item_image(item, "an image").float()
    return len(image) == 3 and bool((image - image[:1]).abs().mean() < 1)


def presets_for(model: Model, like: InputPreset | None = None) -> list[InputPreset]:
    """Return every preset for as many channels as a model takes; of a scaling preset ``like``, with its scaling."""
    signature = read_signature(model if isinstance(model, nn.Module) else Path(model))
    shape = signature.inputs[0].shape if signature is not None and signature.inputs else None
    grey = (like is not None and like.grey) or (shape is not None and len(shape) == 4 and shape[1] == 1)
    usual = grey_presets() if grey else all_presets()
    return usual if like is None else [replace(like, **vars(preset)) for preset in usual]


def _judged(
    model: Model, judge: Judge, presets: Sequence[InputPreset], embedding: str | None
) -> tuple[dict[str, Verdict], dict[str, str]]:
    """Return the verdicts under ``presets`` by their names, the best first; and of others why there is none.

    Raises:
        InputError: there is a verdict under none of them.
    """
    verdicts: dict[str, Verdict] = {}
    left_out: dict[str, str] = {}
    for preset in {preset.name: preset for preset in presets}.values():
        try:
            verdicts[preset.name] = judge.judge(model, preset, embedding)
        except InputError as error:
            failure = error
            left_out[preset.name] = str(error)
    if not verdicts:
        raise failure
    ranked = sorted(verdicts.items(), key=lambda item: item[1].separation.goodness, reverse=True)
    return dict(ranked), left_out


def _chance(judge: Judge, verdict: Verdict, best: Verdict) -> float | None:
    name = best.separation.name
    differences = judge.compare(verdict, best).differences
    return next((found.chance for found in differences if found.before.name == name), None)
