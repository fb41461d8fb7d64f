"""Block expressions: a sum of chains of factors.

``a + b`` runs branches in parallel, ``a >> b`` one after the other, ``n * a`` stands for n independent copies.
In text ``>>`` binds tighter than ``+``; Python binds it looser, so there a chain inside a sum takes parentheses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reparam_kit.errors import ExpressionError

if TYPE_CHECKING:
    from reparam_kit.algebra.factors import Factor


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
    """A block of ``terms``, each copy of which costs memory and time at every site: text may ask for any number."""
    branches, longest = sum(term.copies for term in terms), max(len(term.chain) for term in terms)
    if branches > _MOST or longest > _MOST:
        raise ExpressionError(
            f"{branches} branches of up to {longest} factors are more than {_MOST}, the most that a block may have"
        )
    return Block(terms)
