"""A hundred nets of the grammar; ``python -m benchmarks.random_nets`` runs thousands."""

from __future__ import annotations

import pytest
from random_nets import trial


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", range(0, 100, 10))
def test_the_fold_of_a_random_net_is_exact_or_refused(first: int) -> None:
    outcomes = [trial(seed) for seed in range(first, first + 10)]
    assert [outcome for outcome in outcomes if outcome.fault] == []
    assert sum(outcome.layers for outcome in outcomes) > 3, "the grammar is to make nets that can be expanded"
