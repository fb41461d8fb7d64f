"""Reads a block expression from text. The text is parsed, never evaluated.

sum    := term ("+" term)*
term   := [number "*"] chain
chain  := atom (">>" atom)*
atom   := factor | "(" sum ")"
factor := name ["(" argument ("," argument)* ")"]
argument := number | "k" | name "=" number
"""

from __future__ import annotations

import re

from reparam_kit.algebra.expression import FACTORS, Block, Expression, Factor
from reparam_kit.algebra.factors import Size
from reparam_kit.errors import ExpressionError, InputError

_TOKEN = re.compile(r"\s*(?:(?P<number>\d+)|(?P<name>[A-Za-z_]\w*)|(?P<sign>>>|[-+*(),=]))")

_DEEPEST = 50  # reading goes by recursion
_DIGITS = 9


def parse(text: str) -> Block:
    """Return the block that ``text`` describes. Raises ExpressionError that points at the place where reading
    stopped.
    """
    return _Parser(text).block()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.depth = 0
        self.tokens: list[tuple[str, int]] = []
        position = 0
        end = len(text.rstrip())
        while position < end:
            match = _TOKEN.match(text, position)
            if match is None:
                bad = len(text) - len(text[position:].lstrip())
                raise self.error(f"unexpected {text[bad]!r}", bad)
            self.tokens.append((match.group().strip(), match.end() - len(match.group().strip())))
            position = match.end()
        self.tokens.append(("", end))
        self.index = 0

    def block(self) -> Block:
        block = self.sum()
        if self.peek():
            raise self.error(f"unexpected {self.peek()!r}")
        return Block(block.terms)

    def sum(self) -> Expression:
        total = self.term()
        while self.accept("+"):
            total = total + self.term()
        return total

    def term(self) -> Expression:
        if not self.peek().isdigit():
            return self.chain()
        copies = self.number()
        self.expect("*")
        return copies * self.chain()

    def chain(self) -> Expression:
        chain = self.atom()
        while self.accept(">>"):
            chain = chain >> self.atom()
        return chain

    def atom(self) -> Expression:
        if self.accept("("):
            self.depth += 1
            if self.depth > _DEEPEST:
                raise self.error("more brackets within brackets than can be read")
            inner = self.sum()
            self.expect(")")
            self.depth -= 1
            return inner
        return self.factor()

    def factor(self) -> Factor:
        name, position = self.tokens[self.index]
        if not name.isidentifier():
            raise self.error(
                f"a factor is missing before {name!r}" if name else "the expression ends too early"
            )
        try:
            kind = FACTORS[name]
        except InputError as error:
            raise self.error(str(error), position) from None
        self.index += 1
        sizes: list[Size] = []
        options: dict[str, int] = {}
        if self.accept("("):
            self.argument(sizes, options)
            while self.accept(","):
                self.argument(sizes, options)
            self.expect(")")
        try:
            return kind(*sizes, **options)
        except TypeError:
            raise self.error(f"{name} takes no arguments", position) from None
        except ExpressionError as error:
            raise self.error(str(error), position) from None

    def argument(self, sizes: list[Size], options: dict[str, int]) -> None:
        token = self.peek()
        if token == "k":
            self.index += 1
            sizes.append("k")
        elif token.isidentifier():
            self.index += 1
            self.expect("=")
            options[token] = self.number()
        else:
            sizes.append(self.number())

    def number(self) -> int:
        token = self.peek()
        if not token.isdigit():
            raise self.error(
                f"expected a number, found {token!r}" if token else "the expression ends too early"
            )
        if len(token) > _DIGITS:
            raise self.error(f"a number of {len(token)} digits")
        self.index += 1
        return int(token)

    def peek(self) -> str:
        return self.tokens[self.index][0]

    def accept(self, sign: str) -> bool:
        if self.peek() != sign:
            return False
        self.index += 1
        return True

    def expect(self, sign: str) -> None:
        if not self.accept(sign):
            found = self.peek()
            raise self.error(
                f"expected {sign!r}, found {found!r}" if found else f"expected {sign!r} at the end"
            )

    def error(self, problem: str, position: int | None = None) -> ExpressionError:
        at = self.tokens[self.index][1] if position is None else position
        return ExpressionError(f"block expression {self.text!r}, column {at + 1}: {problem}")
