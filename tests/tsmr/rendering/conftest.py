from __future__ import annotations

import pytest
from reports import made_report

from recipes.tsmr import TSMRReport


@pytest.fixture(scope="module")
def report() -> TSMRReport:
    return made_report()
