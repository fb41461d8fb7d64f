"""How surely a trial is better, by all figures of a judge."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recipes.faces import Comparison, Figure
from recipes.faces.judging.bootstrap import Interval
from recipes.faces.judging.verdict import Difference
from recipes.progress import Progress
from recipes.tsmr.candidates import CANDIDATES, Hyperparameters
from recipes.tsmr.distributed import ALONE
from recipes.tsmr.results import Trial
from recipes.tsmr.search.ranking import surely_better
from recipes.tsmr.search.trials import search
from recipes.tsmr.search.trying import PART

ANY = st.none() | st.floats()


def difference(
    before: float | None,
    after: float | None,
    interval: Interval | None,
    better: Literal["higher", "lower"] = "higher",
) -> Difference:
    chance = None if interval is None else 0.5
    return Difference(Figure("f", before, better), Figure("f", after, better), interval, chance)


def surely(*differences: Difference) -> float | None:
    return surely_better(Comparison(differences, "f", "drawn"))


@pytest.mark.parametrize(
    ("differences", "errors"),
    [
        ([difference(0.5, 0.6, (0.002, 0.198))], 2.0),
        ([difference(0.5, 0.4, (-0.198, -0.002))], -2.0),
        ([difference(0.5, 0.4, (-0.198, -0.002), "lower")], 2.0),
        ([difference(0.5, 0.6, (0.002, 0.198)), difference(0.5, 0.5, (-0.1, 0.1))], 1.0),
        ([difference(0.5, 0.6, (0.002, 0.198)), difference(0.0, 0.0, (0.0, 0.0))], 1.0),  # at the floor
        ([difference(0.5, 0.6, (0.002, 0.198)), difference(0.1, 0.9, None)], 2.0),  # too few to test it
        ([difference(0.5, 0.6, (0.002, 0.198)), difference(None, 0.9, None)], 2.0),
        ([difference(0.5, 0.6, None), difference(0.1, 0.9, None)], None),  # nothing was drawn
        ([difference(math.inf, math.inf, (0.0, 0.0))], None),
        ([], None),
    ],
)
def test_it_is_the_mean_of_standard_errors(differences: list[Difference], errors: float | None) -> None:
    assert surely(*differences) == (None if errors is None else pytest.approx(errors))


def test_what_many_figures_show_outweighs_what_one_does() -> None:
    chance = [difference(0.1, 0.12, (0.0, 0.04)), *[difference(0.5, 0.51, (-0.05, 0.07))] * 5]
    sure = [difference(0.1, 0.11, (-0.01, 0.03)), *[difference(0.5, 0.60, (0.05, 0.15))] * 5]
    assert (surely(*sure) or 0) > (surely(*chance) or 0)


def test_a_figure_that_is_worse_by_more_than_chance_is_weighed_with_the_others() -> None:
    """What a run returns is held back where it is worse; a short one may yet rise."""
    worse = difference(0.5, 0.4, (-0.15, -0.05))
    assert worse.interval is not None
    bold = surely(worse, difference(0.1, 0.5, (0.35, 0.45)))
    careful = surely(difference(0.5, 0.5, (-0.05, 0.05)), difference(0.1, 0.12, (0.0, 0.04)))
    assert bold is not None
    assert careful is not None
    assert bold > careful > (surely(worse, difference(0.1, 0.1, (-0.05, 0.05))) or 0)


def test_a_figure_that_lost_its_value_is_the_worst() -> None:
    sure = difference(0.5, 0.6, (0.05, 0.15))
    assert (surely(sure, difference(0.5, None, None)) or 0) < 0 < (surely(sure) or 0)


@example([(0.0, 1.0, (1.0, 1.0))])
@example([(0.0, 1.0, (1.0, 1.0 + 1e-16))])
@example([(-1e308, 1e308, (0.0, 5e-324))])
@given(st.lists(st.tuples(ANY, ANY, st.none() | st.tuples(st.floats(), st.floats())), max_size=5))
def test_there_is_no_infinity_in_it(
    found: list[tuple[float | None, float | None, Interval | None]],
) -> None:
    errors = surely(*[difference(*one) for one in found])
    assert errors is None or math.isfinite(errors)


@example(low=0.0, more=0.5, width=5e-324)
@given(low=st.floats(0, 1), more=st.floats(0, 1), width=st.floats(0, 1))
def test_who_gains_more_at_the_same_error_is_not_behind(low: float, more: float, width: float) -> None:
    others = difference(0.5, 0.6, (0.05, 0.15))
    ends = (low, low + width)
    first, second = (surely(others, difference(0.0, value, ends)) for value in (low, low + more))
    assert first is not None
    assert second is not None
    assert first <= second


@pytest.mark.parametrize(
    ("surely", "first"),
    [
        ((0.5, 0.05, -1.1, -2.7), 0),
        ((3.0, 2.5, 3.39, 3.29), 3),
        ((3.0, 3.39, 3.29, 2.9), 2),
        ((1.0, 1.0, 1.0, 1.0), 3),
        ((None, None, None, None), 1),
    ],
)
def test_of_trials_that_are_hardly_told_apart_the_boldest_is_taken(
    surely: tuple[float | None, ...], first: int
) -> None:
    """Where nothing tells how sure they are, the figures alone order them."""
    figures = (0.1, 0.4, 0.2, 0.3)

    def run(choices: Hyperparameters, steps: int) -> tuple[tuple[float, ...], Trial]:
        at = CANDIDATES.index(choices)
        return (surely[at] or 0.0, figures[at]), Trial(choices, steps, PART, surely=surely[at])

    trials = search(((4, 1),), 8, run, Progress(silent=True), ALONE)
    assert trials[0].choices == CANDIDATES[first]
    assert {trial.choices for trial in trials} == set(CANDIDATES)
