"""What patterns leave out, by any of the names of a thing."""

from __future__ import annotations

import pytest

import reparam_kit as rk
from reparam_kit.patterns import left_out

CALLED = {1: ["stem.weight", "stem"], 2: ["head.weight", "head", "fc"], 3: ["tail"]}


@pytest.mark.parametrize(
    ("include", "exclude", "reasons"),
    [
        (None, None, {}),
        ([], None, dict.fromkeys(CALLED, "not included")),
        (["fc", "t*"], None, {1: "not included"}),
        (None, ["*e[am]*"], {1: "excluded", 2: "excluded"}),
        (["*ea*", "stem"], ["fc"], {2: "excluded", 3: "not included"}),
    ],
)
def test_one_name_of_several_is_enough(
    include: list[str] | None, exclude: list[str] | None, reasons: dict[int, str]
) -> None:
    assert left_out(CALLED, include, exclude, "layer") == reasons


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_without_a_match_names_the_nearest_or_some(option: str) -> None:
    choice: dict[str, list[str] | None] = {"include": None, "exclude": None}
    with pytest.raises(rk.InputError, match=rf"{option}='hed' matches no layer; did you mean 'head'\?"):
        left_out(CALLED, **choice | {option: ["hed"]}, kind="layer")
    many = {number: [f"layer{number:03}"] for number in range(50)}
    with pytest.raises(rk.InputError, match=r"known layers: layer000, .*layer019 and 30 more$"):
        left_out(many, **choice | {option: ["zz*"]}, kind="layer")
    with pytest.raises(rk.InputError, match=r"known layers: none$"):
        left_out({}, **choice | {option: ["*"]}, kind="layer")
