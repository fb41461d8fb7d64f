"""A judge of one's own that is no judge says so where it is, in one line."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from recipes.faces import Figure, Judge, Verdict
from reparam_kit import InputError


class Number(Judge):
    def judge(self, *args: Any) -> Any:
        return 0.7


class Sound(Judge):
    def __init__(self, path: str) -> None:
        self.path = path

    def judge(self, *args: Any) -> Verdict:
        """Judge by the path alone."""
        return Verdict(figures=(Figure("length", len(self.path)),), decides="length")


class Nowhere(Sound):
    def __init__(self) -> None:
        super().__init__("")


def test_what_is_no_verdict_is_refused() -> None:
    with pytest.raises(InputError, match=r"the judge 'Number' gives float and no recipes.faces.Verdict"):
        Number().judge(nn.Identity())


def test_a_judge_is_made_of_a_path() -> None:
    judge = Sound.read("photos")
    assert judge.judge(nn.Identity()).deciding.value == 6
    assert Sound.judge.__doc__ == "Judge by the path alone."
    with pytest.raises(InputError, match=r"is not made of a path .*: give Nowhere an __init__\(path\)"):
        Nowhere.read("photos")


@pytest.mark.parametrize("kind", [Sound, Nowhere])
def test_what_fails_in_its_own_code_stays_what_it_is(kind: type[Sound]) -> None:
    class Failing(kind):  # type: ignore[misc, valid-type]
        def judge(self, *args: Any) -> Verdict:
            raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        Failing(*(["photos"] if kind is Sound else [])).judge(nn.Identity())
