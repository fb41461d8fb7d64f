"""What a judge found: figures, of which one decides, and what came of each example; and two such, compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from recipes.faces.judging.bootstrap import Interval, interval, resampled_means
from reparam_kit import InputError, suggestion

Outcomes: TypeAlias = Mapping[str, npt.NDArray[Any]]

GROUPS = "groups"
"""Name of the outcome that says which examples stand or fall together: int64 ``[N]``."""


@dataclass(frozen=True)
class Figure:
    """A number that a model is judged by.

    Attributes:
        name: the same wherever it is shown, such as ``"TAR at FAR 0.001"``.
        value: None where the data cannot show it.
        better: whether more of it is better, or less.
        interval: low and high end of its bootstrap interval, 95 %; None where it was not asked for.
        share: whether it is a share, shown in percent.
        missing: why there is no value.

    >>> Figure("TAR at FAR 0.001", 0.9512).shown()
    '95.12%'
    """

    name: str
    value: float | None
    better: Literal["higher", "lower"] = "higher"
    interval: Interval | None = None
    share: bool = True
    missing: str = ""

    @property
    def goodness(self) -> float:
        """A number that rises as the model gets better; minus infinity without a value."""
        if self.value is None:
            return -math.inf
        return self.value if self.better == "higher" else -self.value

    def shown(self, value: float | None = None) -> str:
        """Return the value, or another one of this figure, as text."""
        value = self.value if value is None else value
        if value is None:
            return self.missing or "not measured"
        return f"{value:.2%}" if self.share else f"{value:.3f}"

    def change(self, value: float) -> str:
        """Return a difference of two values of this figure as text, of shares in percentage points."""
        return f"{100 * value:+.2f}" if self.share else f"{value:+.3f}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"name": self.name, "value": self.value, "better": self.better, "interval": self.interval}


@dataclass(frozen=True, eq=False, kw_only=True)
class Verdict:
    """What a judge found about one model.

    Attributes:
        figures: the most important first, but for the one that decides.
        decides: name of the figure that says which of two models is better.
        outcomes: what came of each example, arrays by name: what :meth:`Judge.compare` needs.
        subject: what was judged, such as ``"600 genuine and 600 impostor pairs"``; how many examples,
            unless it is said.
        guessing: the deciding figure that guessing could give, three standard errors above its mean; None: not known.

    Raises:
        InputError: no figure is called ``decides``.

    >>> verdict = Verdict.of_means({"right": np.array([True, False])}, decides="right")
    >>> verdict["right"].value, verdict.rank()
    (0.5, (0.5,))
    """

    figures: tuple[Figure, ...]
    decides: str
    outcomes: Outcomes = field(default_factory=dict, repr=False)
    subject: str = ""
    guessing: float | None = None

    kinds: ClassVar[dict[str, type[Verdict]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Verdict.kinds[cls.__qualname__] = cls

    def __post_init__(self) -> None:
        if not self.subject:
            lengths = {len(values) for values in self.outcomes.values()}
            counted = f"{lengths.pop():,} examples" if len(lengths) == 1 else "the examples of its judge"
            object.__setattr__(self, "subject", counted)
        names = [figure.name for figure in self.figures]
        if self.decides not in names:
            raise InputError(
                f"no figure is called {self.decides!r}: {suggestion(self.decides, names, 'figures')}"
            )

    @staticmethod
    def of_means(
        outcomes: Outcomes,
        decides: str,
        *,
        groups: npt.NDArray[np.int64] | None = None,
        bootstrap: int = 0,
        **options: Any,
    ) -> Verdict:
        """Make the verdict whose figures are the means of outcomes, shares of 0..1.

        Args:
            outcomes: what came of each of N examples, bool or float ``[N]``, by the name of the figure.
            decides: which of them.
            groups: examples of one number are drawn together, int64 ``[N]``; None: each alone.
            bootstrap: sets drawn for the intervals; 0: no intervals.
            options: other fields of the verdict.

        Raises:
            InputError: there are no examples, some figures are of more than others, or a number is not finite.
        """
        if len({np.shape(column) for column in outcomes.values()}) != 1:
            shapes = {name: list(np.shape(column)) for name, column in outcomes.items()}
            raise InputError(f"each figure is the mean of a number for each example, [N]; these are {shapes}")
        values = np.stack([np.asarray(column, np.float64) for column in outcomes.values()], axis=1)
        if not values.size or not np.isfinite(values).all():
            raise InputError(f"{', '.join(outcomes)}: there is no example, or what came of one is not finite")
        ends: list[Interval | None] = [None] * len(outcomes)
        if bootstrap:
            ends = [interval(column) for column in resampled_means(values, groups, bootstrap).T]
        figures = tuple(
            Figure(name, float(mean), interval=end)
            for name, mean, end in zip(outcomes, values.mean(axis=0), ends, strict=True)
        )
        kept = dict(outcomes) if groups is None else {**outcomes, GROUPS: groups}
        return Verdict(figures=figures, decides=decides, outcomes=kept, **options)

    def __getitem__(self, name: str) -> Figure:
        """Return the figure of that name."""
        found = next((figure for figure in self.figures if figure.name == name), None)
        if found is None:
            raise KeyError(name)
        return found

    @property
    def deciding(self) -> Figure:
        """The figure that decides."""
        return self[self.decides]

    @property
    def separation(self) -> Figure:
        """The figure that tells two models or inputs apart on the fewest examples."""
        return self.deciding

    def rank(self) -> tuple[float, ...]:
        """Return what makes one verdict better than another on the same data; compare as tuples.

        The figure that decides, then the others in their order. One without a value counts as the worst.
        """
        others = (figure.goodness for figure in self.figures if figure.name != self.decides)
        return (self.deciding.goodness, *others)

    def at_chance(self) -> bool:
        """Return whether guessing could give as much."""
        return self.guessing is not None and self.deciding.goodness <= self.guessing

    def notes(self) -> dict[str, str]:
        """Return what a table says besides the figures, such as the input."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, without the outcomes."""
        figures = [figure.to_json() for figure in self.figures]
        return {"subject": self.subject, "decides": self.decides, "figures": figures}

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and text, which :meth:`from_state` takes."""
        state = {part.name: getattr(self, part.name) for part in fields(self)}
        state["figures"] = [vars(figure) for figure in self.figures]
        state["outcomes"] = {
            name: torch.from_numpy(np.asarray(values)) for name, values in self.outcomes.items()
        }
        return {"kind": type(self).__qualname__, **state}

    @staticmethod
    def from_state(state: Mapping[str, Any]) -> Verdict:
        """Make the verdict whose ``state_dict`` this is."""
        kind = Verdict if state["kind"] == "Verdict" else Verdict.kinds[state["kind"]]
        options = {name: value for name, value in state.items() if name != "kind"}
        options["figures"] = tuple(Figure(**saved) for saved in state["figures"])
        options["outcomes"] = {name: values.numpy() for name, values in state["outcomes"].items()}
        return kind(**options)


@dataclass(frozen=True)
class Difference:
    """A figure of two models on the same data.

    Attributes:
        before, after: the figure of either.
        interval: bootstrap interval of ``after - before``, 95 %; None where the outcomes do not show it.
        chance: probability of a difference as large, either way, if there were none; None as above.
    """

    before: Figure
    after: Figure
    interval: Interval | None = None
    chance: float | None = None

    @property
    def value(self) -> float | None:
        """``after - before``; None where either has no value."""
        if self.before.value is None or self.after.value is None:
            return None
        return self.after.value - self.before.value

    def significant(self, level: float = 0.05) -> Literal["better", "worse"] | None:
        """Return whether the figure got better or worse by more than chance, less probable than ``level``.

        None: neither can be told, or how probable the difference is was not found.
        """
        if not self.value or self.chance is None or self.chance >= level:
            return None
        return "better" if self.after.goodness > self.before.goodness else "worse"

    @property
    def chance_shown(self) -> str:
        """The probability of chance as text; empty where it was not found."""
        if self.chance is None:
            return ""
        return f"{self.chance:.3f}" if self.chance >= 0.001 else "<0.001"

    def told(self, examples: str = "examples") -> str:
        """Say what the difference is, as far as the ``examples`` that were drawn can show; "not tested" where nothing
        was drawn.
        """
        if self.chance is None:
            return "not tested"
        found = self.significant()
        return f"{found} by more than chance" if found else f"no difference that these {examples} could show"

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        ends = {"before": self.before.value, "after": self.after.value}
        return {
            "name": self.before.name,
            **ends,
            "difference": self.value,
            "interval": self.interval,
            "chance": self.chance,
        }


@dataclass(frozen=True)
class Comparison:
    """Two models on the same data, example by example.

    Attributes:
        differences: of each figure.
        decides: name of the one that decides.
        method: how intervals and probabilities were found.
        examples: what was drawn, such as ``"pairs"``.
    """

    differences: tuple[Difference, ...]
    decides: str
    method: str
    examples: str = "examples"

    @property
    def deciding(self) -> Difference:
        """The difference that decides."""
        return next(d for d in self.differences if d.before.name == self.decides)

    def worse(self, level: float = 0.05) -> tuple[Difference, ...]:
        """Return the differences, of the figure that decides and of the others, that are worse by more than chance.

        Each is tested by itself at ``level``, without allowing for how many there are: of twenty figures that did not
        change, one may be among them.
        """
        return tuple(d for d in self.differences if d.significant(level) == "worse")

    @property
    def told(self) -> str:
        """The difference that decides, in words."""
        return self.deciding.told(self.examples)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = [{**one.to_json(), "told": one.told(self.examples)} for one in self.differences]
        return {
            "decides": self.decides,
            "method": self.method,
            "examples": self.examples,
            "told": self.told,
            "differences": found,
        }


def comparison(
    before: Verdict,
    after: Verdict,
    found: Mapping[str, tuple[Interval, float]],
    method: str,
    examples: str,
) -> Comparison:
    """Return a comparison of all figures, with the interval and the probability that were ``found`` for some of
    them.
    """
    differences = [
        Difference(figure, after[figure.name], *found.get(figure.name, (None, None)))
        for figure in before.figures
    ]
    return Comparison(tuple(differences), before.decides, method, examples)


def require_same(before: Verdict, after: Verdict, names: list[str]) -> None:
    """Refuse verdicts that differ in the outcomes ``names``: they are not of the same examples.

    Raises:
        InputError: they differ, or have other figures.
    """
    lengths = [{len(values) for values in verdict.outcomes.values()} for verdict in (before, after)]
    same = lengths[0] == lengths[1] and [f.name for f in before.figures] == [f.name for f in after.figures]
    for name in names:
        ours, theirs = before.outcomes.get(name), after.outcomes.get(name)
        same = same and (ours is theirs or (ours is not None and np.array_equal(ours, theirs)))  # type: ignore[arg-type]
    if not same:
        raise InputError(f"{before.subject} and {after.subject} are not the same examples")
