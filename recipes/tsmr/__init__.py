"""Train an expanded student with a teacher and fold it back: a deployed face net with better weights.

``apply_tsmr(model, teacher, data, val, config)`` is the whole recipe; ``TSMRConfig`` is everything that can
be chosen about it; ``TSMRResult`` and ``TSMRReport`` are what it gives. So far there is one stage:
distillation of the teacher's embeddings.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "TSMRConfig": "recipes.tsmr.config",
    "TSMRReport": "recipes.tsmr.report",
    "TSMRResult": "recipes.tsmr.recipe",
    "apply_tsmr": "recipes.tsmr.recipe",
}

__all__ = ["TSMRConfig", "TSMRReport", "TSMRResult", "apply_tsmr"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recipes.tsmr' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from recipes.tsmr.config import TSMRConfig
    from recipes.tsmr.recipe import TSMRResult, apply_tsmr
    from recipes.tsmr.report import TSMRReport
