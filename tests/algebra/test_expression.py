"""The language: text and Python say the same, and what is wrong is pointed at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reparam_kit import ExpressionError
from reparam_kit.algebra import FACTORS, PRESETS, Block, block, parse
from reparam_kit.algebra.expression import Term
from reparam_kit.algebra.factors import (
    Avg,
    Conv,
    Depthwise,
    Dilated,
    Identity,
    Laplacian,
    SobelX,
    SobelY,
)

SIZES = st.one_of(st.integers(1, 9), st.just("k"))
SIZE = st.lists(SIZES, min_size=1, max_size=3).map(tuple)
WIDTH = st.one_of(st.just({}), st.integers(1, 9).map(lambda width: {"width": width}))
DRAWN = st.one_of(
    st.builds(lambda size, options: Conv(*size, **options), SIZE, WIDTH),
    st.builds(lambda size, options: Depthwise(*size, **options), SIZE, WIDTH),
    st.builds(lambda size, rate: Dilated(*size, rate=rate), SIZE, st.integers(1, 4)),
    st.builds(lambda size: Avg(*size), SIZE),
    st.sampled_from([Identity(), SobelX(), SobelY(), Laplacian()]),
)
TERMS = st.builds(Term, st.lists(DRAWN, min_size=1, max_size=4).map(tuple), st.integers(1, 5))
BLOCKS = st.lists(TERMS, min_size=1, max_size=4).map(lambda terms: Block(tuple(terms)))


@given(BLOCKS)
def test_text_of_a_block_parses_back(given_block: Block) -> None:
    assert parse(str(given_block)) == given_block


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_parses_and_prints(name: str) -> None:
    assert str(block(name)) == str(block(str(block(name))))


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("conv(k) + conv(1) >> avg(k)", Conv("k") + (Conv(1) >> Avg("k"))),
        ("2 * conv(1, k) + identity", 2 * Conv(1, "k") + Identity()),
        ("2 * conv(1) >> conv(k)", 2 * (Conv(1) >> Conv("k"))),
        ("(conv(1) >> conv(k)) >> avg(1)", Conv(1) >> Conv("k") >> Avg(1)),
        ("conv(1, width=3) >> conv(k)", Conv(1, width=3) >> Conv("k")),
        (" sobel_x+dilated(3,rate=2) ", SobelX() + Dilated(3, rate=2)),
    ],
)
def test_text_and_python_agree(text: str, built: Block) -> None:
    assert parse(text) == built


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 1: the expression ends too early"),
        ("conv(k) +", "column 10: the expression ends too early"),
        ("conv(k) avg(k)", "column 9: unexpected 'avg'"),
        ("conv(k", "column 7: expected '\\)' at the end"),
        ("conf(k)", "column 1: there is no factor 'conf' .*: did you mean 'conv'\\?"),
        ("zzz(1)", "known names: conv, dilated, depthwise, identity, avg, frequency"),
        ("conv", "column 1: conv is written conv\\(size, ..., width=N\\)"),
        ("conv(0)", "sizes and options are positive"),
        ("conv(1, depth=2)", "conv is written"),
        ("identity(3)", "identity takes no arguments"),
        ("conv(k) ? conv(1)", "column 9: unexpected '\\?'"),
        ("conv(1) >> (conv(k) + identity)", "a sum cannot stand inside a chain"),
        ("0 * conv(k)", "number of copies must be at least 1"),
        ("3 + conv(k)", "expected '\\*', found '\\+'"),
        ("__import__('os')", "column 12: unexpected"),
        ("99999999 * conv(1)", "99999999 branches of up to 1 factors are more than 100"),
        ("100 * conv(1) + conv(1)", "101 branches"),
        (" + ".join(["conv(1)"] * 5000), "101 branches"),
        (" >> ".join(["conv(1)"] * 5000), "up to 101 factors"),
        ("conv(1, width=99999999)", "at most 100"),
        (f"{'9' * 5000} * conv(1)", "a number of 5000 digits"),
        (f"{'(' * 5000}conv(1){')' * 5000}", "brackets within brackets"),
    ],
)
def test_what_is_wrong_is_pointed_at(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        parse(text)


def test_python_precedence_is_explained() -> None:
    with pytest.raises(ExpressionError, match=r"In Python >> binds looser than \+"):
        Conv("k") + Conv(1) >> Avg("k")


@pytest.mark.parametrize(("name", "near"), [("dbd", "dbb"), ("repvg", "repvgg"), ("mobileon", "mobileone")])
def test_a_typo_in_a_block_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ExpressionError, match=f"did you mean '{near}'"):
        block(name)


def test_a_lone_factor_is_a_block_too() -> None:
    assert block("identity") == block(Identity()) == Block((Term((Identity(),)),))


def test_a_factor_is_registered_under_its_name() -> None:
    assert {name: FACTORS[name].name for name in FACTORS} == {name: name for name in FACTORS}
