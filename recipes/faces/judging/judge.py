"""What a judge is: from a model and data to figures, of which one decides, and what came of each example.

A judge of one's own is a subclass of :class:`Judge` with a name; ``examples/own_judge.py`` has one.
"""

from __future__ import annotations

import copy
import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from recipes.faces.embedding.inputs import InputPreset
from recipes.faces.images.items import Item, item_image
from recipes.faces.judging.bootstrap import Interval, interval, probability_of_chance, resampled_means
from recipes.faces.judging.verdict import GROUPS, Comparison, Verdict, comparison, require_same
from reparam_kit import InputError, Registry, fingerprint

Model: TypeAlias = nn.Module | str | os.PathLike[str]

JUDGES: Registry[type[Judge]] = Registry("judge", "recipes.faces.judging.reading", "reparam_kit.judges")

COMPARED = 1000  # sets drawn for a comparison


def _checked(judge: Callable[..., Verdict]) -> Callable[..., Verdict]:
    """Refuse what is no verdict where it comes from: what reads it is far away."""

    @wraps(judge)
    def checked(self: Judge, *args: Any, **options: Any) -> Verdict:
        found: object = judge(self, *args, **options)
        if not isinstance(found, Verdict):
            raise InputError(
                f"the judge {type(self).name or type(self).__qualname__!r} gives {type(found).__name__} and no "
                "recipes.faces.Verdict: Verdict.of_means makes one"
            )
        return found

    return checked


class Judge(ABC):
    """Judges models on data that it holds.

    ``class Steady(Judge, name="steady")`` names a kind of judge; ``--val steady:PATH`` and ``--judge steady:PATH`` then
    find it. ``examples`` is what its outcomes are of, in the words of a comparison, and ``asked`` what :meth:`right` is
    of, where that is something else.

    >>> class Steady(Judge):
    ...     def judge(self, model, input="insightface", embedding=None):
    ...         same = np.array([True, True, False])
    ...         return Verdict.of_means({"steady": same}, decides="steady")
    >>> Steady().judge(nn.Identity()).deciding.shown()
    '66.67%'
    """

    name: ClassVar[str] = ""
    examples: ClassVar[str] = "examples"
    asked: ClassVar[str] = ""

    def __init_subclass__(cls, name: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if "judge" in vars(cls):
            cls.judge = _checked(cls.judge)  # type: ignore[method-assign]
        if name:
            cls.name = name
            JUDGES.add(name, cls)

    @classmethod
    def read(cls, path: str) -> Judge:
        """Make a judge of what the command line names.

        Raises:
            InputError: as the judge; or it is not made of a path.
        """
        try:
            inspect.signature(cls).bind(path)
        except TypeError as error:
            raise InputError(
                f"the judge {cls.name!r} is not made of a path ({error}): give {cls.__qualname__} an __init__(path) or "
                "a classmethod read(path)"
            ) from error
        return cls(path)  # type: ignore[call-arg]

    @abstractmethod
    def judge(
        self, model: Model, input: str | InputPreset = "insightface", embedding: str | None = None
    ) -> Verdict:
        """Judge one model.

        Args:
            model: a module, or the path of an ``.onnx`` file (see :class:`recipes.faces.Embedder`).
            input: an input preset or its name.
            embedding: name of the output to judge, where there are several.

        Raises:
            InputError: the model or the data cannot be used.
        """

    def compare(self, before: Verdict, after: Verdict) -> Comparison:
        """Compare two models by their verdicts on this data, example by example.

        Here a figure is taken for the mean of the outcomes of its name, and the examples are drawn with replacement.

        Raises:
            InputError: the verdicts are not of the same examples.
        """
        require_same(before, after, [GROUPS])
        measured = [f.name for f in before.figures if f.name in before.outcomes and f.name in after.outcomes]
        found: dict[str, tuple[Interval, float]] = {}
        if measured:
            columns = [
                np.asarray(after.outcomes[n], np.float64) - np.asarray(before.outcomes[n], np.float64)
                for n in measured
            ]
            drawn = resampled_means(np.stack(columns, axis=1), before.outcomes.get(GROUPS), COMPARED)
            found = {
                n: (interval(d), probability_of_chance(d)) for n, d in zip(measured, drawn.T, strict=True)
            }
        what = f"groups of {self.examples}" if GROUPS in before.outcomes else self.examples
        return comparison(before, after, found, f"{what} drawn {COMPARED:,} times", self.examples)

    def right(self, verdict: Verdict) -> npt.NDArray[np.bool_] | None:
        """Return which examples came out right, bool ``[N]``; None where that is no matter of yes and no.

        Here it is the outcome of the figure that decides, where that is of true and false.
        """
        found = np.asarray(verdict.outcomes.get(verdict.decides, ()))
        return found if found.dtype == np.bool_ else None

    def example(self, number: int) -> Sequence[Item]:
        """Return the images of an example, by its number in :meth:`right`; none where it has none to be shown."""
        return []

    def outputs(self, size: int) -> Literal["embeddings", "logits"] | None:
        """Say what a net's ``size`` numbers are to this judge; None where it does not know."""
        return None

    def images(self, count: int) -> Sequence[Item]:
        """Return the first images, at most ``count``, such as uint8 ``[H, W, 3]`` RGB: what an input is held
        against.
        """
        return []

    def takes_presets(self) -> bool:
        """Return whether what is judged are pixels; False of images that are normalised already."""
        return all(item_image(image, "image 0").dtype == torch.uint8 for image in self.images(1))

    def input_name(self, preset: InputPreset) -> str:
        """Name the input in a verdict."""
        return preset.name if self.takes_presets() else "none: the images are normalised already"

    def sample(self, limit: int) -> Judge:
        """Return a judge on about ``limit`` of the examples, for a quick look; the same one where that cannot be."""
        return self

    def comparable(self) -> Judge:
        """Return a judge like this one, whose verdicts can be compared; this one, unless a sample cannot."""
        return self

    def part(self, limit: int) -> Judge:
        """Return a judge on about ``limit`` of the examples, of whose verdicts every figure can be compared."""
        return self.sample(limit).comparable()

    def decided_by(self, figure: str) -> Judge:
        """Return a judge like this one, by whose verdicts the figure of that name decides.

        Raises:
            InputError: it has one figure that decides, whatever is asked for.
        """
        if not hasattr(self, "_decides"):
            raise InputError(f"{figure!r} cannot decide: {type(self).__name__} does not take another figure")
        other = copy.copy(self)
        other._decides = figure
        return other

    def with_teacher(self, teacher: Model, input: str | InputPreset, embedding: str | None = None) -> Judge:
        """Return a judge that has asked ``teacher`` what it has to know of its data; this one where that is nothing.

        The arguments are those of :meth:`judge`. A run of TSMR gives its first teacher before anything is judged.
        """
        return self

    def identity(self) -> str:
        """Return a number for what is judged: a run that goes on from a checkpoint must have the same."""
        return fingerprint([type(self).__module__, type(self).__qualname__])
