"""One chart as SVG paths: scales, ticks, lines.

A chart is drawn here by hand, which takes less code than turning off what a plotting library adds: its
colours are CSS classes, which follow the reader's light or dark scheme, its text stays text, and the same numbers give
the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Values = Sequence[float] | npt.NDArray[np.float64]

MINUS = "\N{MINUS SIGN}"  # as wide as a plus, which a hyphen is not
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 26.0, 38.0  # around the plotting area, with room for words
_LETTER, _GAP = 7.5, 8.0  # width of a letter of a tick at most, and room beside its text


@dataclass(frozen=True)
class Tick:
    """A place on an axis, ``0..1`` along it, and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale from ``low`` to ``high``.

    Attributes:
        label: what is measured, with its unit.
        log: logarithmic, with a tick at powers of ten.
        percent: values are shares, written in percent.
        names: in place of ticks: text for 0, 1, 2 ...
    """

    low: float
    high: float
    label: str = ""
    log: bool = False
    percent: bool = False
    names: tuple[str, ...] = ()

    @classmethod
    def around(
        cls, values: Values, label: str = "", percent: bool = False, whole: tuple[float, float] | None = None
    ) -> Axis:
        """Return a linear axis with a little room around ``values``, and none beyond ``whole``."""
        low, high = float(np.min(values)), float(np.max(values))
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - room, high + room
        if whole is not None:
            low, high = max(low, whole[0]), min(high, whole[1])
        return cls(low, high, label, percent=percent)

    def place(self, values: Values | float) -> npt.NDArray[np.float64]:
        """Return ``0..1`` along the axis; what lies beyond its ends is put on them."""
        low, high, numbers = self.low, self.high, np.asarray(values, np.float64)
        if self.log:
            low, high = math.log10(low), math.log10(high)
            numbers = np.log10(np.maximum(numbers, self.low))
        return np.clip((numbers - low) / (high - low), 0.0, 1.0)

    @property
    def ticks(self) -> list[Tick]:
        """About five, at round values."""
        if self.names:
            return [Tick(float(self.place(number)), name) for number, name in enumerate(self.names)]
        if self.log:
            first, last = (math.log10(end) for end in (self.low, self.high))
            powers = range(math.ceil(first - 1e-9), math.floor(last + 1e-9) + 1)
            every = -(-len(powers) // 6)
            return [
                Tick(float(self.place(10.0**p)), self._text(10.0**p, p)) for p in reversed(powers[::-every])
            ]
        step = nice_step((self.high - self.low) / 5)
        digits = max(0, -math.floor(math.log10(step * (100 if self.percent else 1)) + 1e-9))
        numbers = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return [Tick(float(self.place(n * step)), self._text(n * step, digits=digits)) for n in numbers]

    def _text(self, value: float, power: int | None = None, digits: int = 0) -> str:
        if self.percent:
            return f"{100 * value:g} %" if power is not None else f"{100 * value:.{digits}f} %"
        if power is not None:
            return "1" if power == 0 else "10" + str(power).translate(_SUPERSCRIPT)
        return f"{value:.{digits}f}".replace("-", MINUS)


def nice_step(about: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not below ``about``."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= about * (1 - 1e-9))


@dataclass(frozen=True)
class Mark:
    """A path, its CSS classes, and its tooltip."""

    path: str
    style: str
    told: str = ""


@dataclass(frozen=True)
class Note:
    """A few words in the chart, at pixels; ``anchor`` is SVG's ``text-anchor``."""

    x: float
    y: float
    text: str
    anchor: str


@dataclass
class Chart:
    """What the template draws. Pixels are those of the SVG's view box, ``y`` downwards.

    Attributes:
        title: what is shown, also for those who have it read to them.
        keys: style and name of each line, for the legend.
        left: room for the texts of the vertical axis; more is made for long ones.
        top: room for its label, and for words above the chart.
    """

    title: str
    x: Axis
    y: Axis
    width: float = 400.0
    height: float = 250.0
    left: float = _LEFT
    top: float = _TOP
    marks: list[Mark] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    keys: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = max(self.left, _GAP + _LETTER * max((len(tick.text) for tick in self.y.ticks), default=0))

    @property
    def right(self) -> float:
        return self.width - _RIGHT

    @property
    def bottom(self) -> float:
        return self.height - _BOTTOM

    def across(self, values: Values | float) -> npt.NDArray[np.float64]:
        """Pixels of values of ``x``, to a tenth."""
        return np.round(self.left + (self.right - self.left) * self.x.place(values), 1)

    def down(self, values: Values | float) -> npt.NDArray[np.float64]:
        """Pixels of values of ``y``, to a tenth."""
        return np.round(self.bottom - (self.bottom - self.top) * self.y.place(values), 1)

    def line(self, x: Values, y: Values, style: str, name: str = "", steps: bool = False) -> None:
        """Draw a line through points; ``steps`` goes on level until the next point."""
        self.marks.append(Mark(self._path(x, y, steps), f"line {style}"))
        self._name(style, name)

    def area(self, edges: Values, heights: Values, style: str, name: str = "") -> None:
        """Draw a histogram: ``heights [N]`` between ``edges [N + 1]``, down to the lower end of ``y``."""
        heights = np.append(heights, self.y.low)
        path = f"M{_number(self.across(edges)[0])} {_number(self.bottom)}L{self._path(edges, heights, True)[1:]}Z"
        self.marks.append(Mark(path, f"area {style}"))
        self._name(style, name)

    def dots(self, x: Values, y: Values, style: str, told: Sequence[str] = (), name: str = "") -> None:
        """Draw a dot at each point: a line of no length with round ends."""
        for i, (a, b) in enumerate(zip(self.across(x), self.down(y), strict=True)):
            self.marks.append(Mark(f"M{_number(a)} {_number(b)}h0", f"dot {style}", told[i] if told else ""))
        self._name(style, name)

    def stick(self, x: float, style: str, low: float | None = None, high: float | None = None) -> None:
        """Draw an upright line at ``x``, from ``low`` to ``high`` or through the whole chart."""
        ends = (self.bottom if low is None else self.down(low), self.top if high is None else self.down(high))
        path = f"M{_number(self.across(x))} {_number(ends[0])}V{_number(ends[1])}"
        self.marks.append(Mark(path, f"line {style}"))

    def level(self, y: float, style: str, name: str = "") -> None:
        """Draw a line across the whole chart at ``y``."""
        path = f"M{_number(self.left)} {_number(self.down(y))}H{_number(self.right)}"
        self.marks.append(Mark(path, f"line {style}"))
        self._name(style, name)

    def note(self, x: float, text: str, left: bool = False) -> None:
        """Words beside the upper end of ``x``."""
        shift, anchor = (-4.0, "end") if left else (4.0, "start")
        self.notes.append(Note(float(self.across(x)) + shift, self.top + 10.0, text, anchor))

    def above(self, x: float, text: str) -> None:
        """Words over the chart, beginning at ``x``."""
        self.notes.append(Note(float(self.across(x)), self.top - 5.0, text, "start"))

    def _name(self, style: str, name: str) -> None:
        if name:
            self.keys.append((style, name))

    def _path(self, x: Values, y: Values, steps: bool) -> str:
        """Points that fall on the pixels of the one before are left out: a set of millions stays a small page."""
        points = np.stack([self.across(x), self.down(y)], axis=1)
        points = points[np.append(True, (points[1:] != points[:-1]).any(axis=1))]
        path = f"M{_number(points[0, 0])} {_number(points[0, 1])}"
        if not steps:
            return path + "".join(f"L{_number(a)} {_number(b)}" for a, b in points[1:])
        for (was_x, was_y), (is_x, is_y) in pairwise(points):
            path += (f"H{_number(is_x)}" if is_x != was_x else "") + (
                f"V{_number(is_y)}" if is_y != was_y else ""
            )
        return path


def _number(value: float | npt.NDArray[np.float64]) -> str:
    return f"{float(value):g}"
