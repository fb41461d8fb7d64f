"""Block expressions: a sum of chains of factors.

``a + b`` runs branches in parallel, ``a >> b`` one after the other, ``n * a`` stands for n independent copies.
In text ``>>`` binds tighter than ``+``; Python binds it looser, so there a chain inside a sum takes parentheses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reparam_kit.algebra.kernel import Geometry
from reparam_kit.errors import ExpressionError
from reparam_kit.registry import Registry

_MOST = 100


class Expression:
    """What ``+``, ``>>`` and ``n *`` work on: a factor or a block."""

    @property
    def terms(self) -> tuple[Term, ...]:
        raise NotImplementedError

    def __add__(self, other: Expression) -> Block:
        return _bounded(self.terms + other.terms)

    def __rshift__(self, then: Expression) -> Block:
        return _bounded((Term(self._chain(then) + then._chain(self)),))

    def __rmul__(self, copies: int) -> Block:
        if copies < 1:
            raise ExpressionError(f"{copies} * ({self}): the number of copies must be at least 1")
        return _bounded(tuple(Term(term.chain, term.copies * copies) for term in self.terms))

    def _chain(self, other: Expression) -> tuple[Factor, ...]:
        if len(self.terms) > 1 or self.terms[0].copies > 1:
            raise ExpressionError(
                f"a sum cannot stand inside a chain: ({self}) joined by >> to ({other}). "
                "In Python >> binds looser than + and *: write a + (b >> c)"
            )
        return self.terms[0].chain


@dataclass(frozen=True)
class Factor(Expression):
    """A linear operator that a chain can hold. Channelwise unless a subclass mixes channels (``mixes``).

    Derive from ``Trained`` or ``Fixed``, which have a kernel with and without a parameter.
    """

    name: ClassVar[str]
    mixes: ClassVar[bool] = False

    def __init_subclass__(cls, name: str | None = None) -> None:
        if name is not None:
            cls.name = name
            FACTORS.add(name, cls)

    @property
    def terms(self) -> tuple[Term, ...]:
        return (Term((self,)),)

    def taps(self, site: Geometry) -> tuple[int, ...]:
        """Extent on the site's tap grid. Raises Misfit where the site has the wrong number of dimensions."""
        return (1,) * len(site.taps)

    def out_channels(self, in_channels: int, site: Geometry) -> int:
        """Channels that come out, unless this is the chain's last mixing factor (then it is the site's number)."""
        return in_channels

    def gain(self, shape: Geometry) -> float:
        """Return what the factor, at its start, makes of the norm of the kernel before it, on average."""
        return 1.0

    def __str__(self) -> str:
        return self.name


FACTORS: Registry[type[Factor]] = Registry("factor", "reparam_kit.algebra.factors", "reparam_kit.factors")
"""Every factor by its name."""


@dataclass(frozen=True)
class Term:
    """``copies`` independent branches of the same chain."""

    chain: tuple[Factor, ...]
    copies: int = 1

    def __str__(self) -> str:
        text = " >> ".join(map(str, self.chain))
        return f"{self.copies} * {text}" if self.copies > 1 else text


@dataclass(frozen=True)
class Block(Expression):
    """A sum of terms. ``str(block)`` is text that parses back to the same block."""

    parts: tuple[Term, ...]

    @property
    def terms(self) -> tuple[Term, ...]:
        return self.parts

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


def _bounded(terms: tuple[Term, ...]) -> Block:
    """Return a block of ``terms``, each copy of which costs memory and time at every site: text may ask for any
    number.
    """
    branches, longest = sum(term.copies for term in terms), max(len(term.chain) for term in terms)
    if branches > _MOST or longest > _MOST:
        raise ExpressionError(
            f"{branches} branches of up to {longest} factors are more than {_MOST}, the most that a block may have"
        )
    return Block(terms)
