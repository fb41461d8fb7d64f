"""The arithmetic of an input preset, as a user writes it: ``(x - 127.5) / 128``.

``x`` is a pixel in 0..255. Numbers stand for all channels, ``[r, g, b]`` for one each, always in RGB order.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from reparam_kit import InputError

Triple = tuple[float, float, float]

_LONGEST = 200  # characters, which also bounds how deep brackets nest
_TOKEN = re.compile(r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<sign>[-+*/()\[\],x]))")


@dataclass(frozen=True)
class _Value:
    """``(x - mean) / std`` by channel; the constant ``mean`` where ``std`` is None."""

    mean: Triple
    std: Triple | None = None


_PIXEL = _Value((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def parse_formula(text: str) -> tuple[Triple, Triple]:
    """Return ``mean`` and ``std``, so that ``text`` is ``(x - mean) / std``.

    Raises:
        InputError: it does not parse, or is no line in ``x``.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"it is longer than {_LONGEST} characters")
        mean, std = _Parser(text).whole()
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        reason = "it divides by zero" if isinstance(error, ZeroDivisionError) else error
        raise InputError(
            f"the input {text[:_LONGEST]!r} is no formula: {reason}; write one such as '(x - 127.5) / 128', where x is "
            "a pixel in 0..255, or '(x / 255 - [0.5, 0.5, 0.4]) / 0.2, bgr'"
        ) from None
    return mean, std


class _Parser:
    """Sums of products of numbers, ``[r, g, b]`` and ``x``, by recursive descent."""

    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        place, text = 0, text.rstrip()
        while place < len(text):
            found = _TOKEN.match(text, place)
            if found is None:
                raise ValueError(f"{text[place:].strip()[:20]!r} is not part of one")
            self._tokens.append(found[0].strip())
            place = found.end()
        self._tokens.reverse()

    def whole(self) -> tuple[Triple, Triple]:
        value = self._sum()
        if self._tokens:
            raise ValueError(f"{self._tokens[-1]!r} is one too many")
        if value.std is None:
            raise ValueError("x is missing")
        if not all(map(math.isfinite, value.mean + value.std)):
            raise ValueError("its numbers are too large")
        if not all(value.std):
            raise ZeroDivisionError
        return value.mean, value.std

    def _next(self, *wanted: str) -> str | None:
        """Take the next token, where it is one of these."""
        return self._tokens.pop() if self._tokens and self._tokens[-1] in wanted else None

    def _require(self, wanted: str) -> None:
        if self._next(wanted) is None:
            raise ValueError(f"a {wanted!r} is missing")

    def _sum(self) -> _Value:
        value = self._product()
        while sign := self._next("+", "-"):
            other = self._product()
            value = _plus(value, other if sign == "+" else _times(other, (-1.0, -1.0, -1.0)))
        return value

    def _product(self) -> _Value:
        value = self._factor()
        while sign := self._next("*", "/"):
            other = self._factor()
            if sign == "*" and value.std is None:
                value, other = other, value
            if other.std is not None:
                raise ValueError("x can only be shifted and scaled")
            if sign == "*":
                value = _times(value, other.mean)
            elif value.std is None:
                value = _Value(_each(operator.truediv, value.mean, other.mean))
            else:
                value = _Value(value.mean, _each(operator.mul, value.std, other.mean))
        return value

    def _factor(self) -> _Value:
        if self._next("-"):
            return _times(self._factor(), (-1.0, -1.0, -1.0))
        if self._next("x"):
            return _PIXEL
        if self._next("("):
            value = self._sum()
            self._require(")")
            return value
        if self._next("["):
            channels = [self._constant()]
            while self._next(","):
                channels.append(self._constant())
            self._require("]")
            if len(channels) != 3:
                raise ValueError(f"[...] holds {len(channels)} numbers, not one each for red, green and blue")
            return _Value(cast("Triple", tuple(channels)))
        if not self._tokens or not (self._tokens[-1][0].isdigit() or self._tokens[-1][0] == "."):
            raise ValueError(
                f"a number is missing before {self._tokens[-1] if self._tokens else 'its end'!r}"
            )
        number = float(self._tokens.pop())
        return _Value((number, number, number))

    def _constant(self) -> float:
        value = self._sum()
        if value.std is not None or len(set(value.mean)) > 1:
            raise ValueError("[...] holds numbers alone")
        return value.mean[0]


def _each(compute: Callable[[float, float], float], left: Triple, right: Triple) -> Triple:
    return cast("Triple", tuple(map(compute, left, right)))


def _plus(left: _Value, right: _Value) -> _Value:
    if left.std is None:
        left, right = right, left
    if left.std is None:
        return _Value(_each(operator.add, left.mean, right.mean))
    if right.std is not None:
        raise ValueError("x stands in it twice")
    return _Value(_each(operator.sub, left.mean, _each(operator.mul, right.mean, left.std)), left.std)


def _times(value: _Value, factors: Triple) -> _Value:
    if value.std is None:
        return _Value(_each(operator.mul, value.mean, factors))
    return _Value(value.mean, _each(operator.truediv, value.std, factors))
