"""Train an expanded student with a teacher and fold it back: a deployed face net with better weights.

``apply_tsmr(model, teacher, data, val, config)`` is the whole recipe: distillation of a teacher's embeddings
into an expanded student, then adversarial refinement. ``TSMRConfig`` is everything that can be chosen about
it, with a ``Stage`` for each stretch of training; ``TSMRResult`` and ``TSMRReport`` are what it gives, and
``write_report`` makes a page of it. ``compare`` trains the controls that a gain has to be held against.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Adversary": "recipes.tsmr.config",
    "Arm": "recipes.tsmr.report",
    "Attack": "recipes.tsmr.config",
    "Augment": "recipes.tsmr.config",
    "Margin": "recipes.tsmr.config",
    "Stage": "recipes.tsmr.config",
    "TSMRConfig": "recipes.tsmr.config",
    "TSMRReport": "recipes.tsmr.report",
    "TSMRResult": "recipes.tsmr.recipe",
    "apply_tsmr": "recipes.tsmr.recipe",
    "compare": "recipes.tsmr.ablation",
    "write_report": "recipes.tsmr.page",
}

__all__ = [
    "Adversary",
    "Arm",
    "Attack",
    "Augment",
    "Margin",
    "Stage",
    "TSMRConfig",
    "TSMRReport",
    "TSMRResult",
    "apply_tsmr",
    "compare",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recipes.tsmr' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__


if TYPE_CHECKING:
    from recipes.tsmr.ablation import compare
    from recipes.tsmr.config import Adversary, Attack, Augment, Margin, Stage, TSMRConfig
    from recipes.tsmr.page import write_report
    from recipes.tsmr.recipe import TSMRResult, apply_tsmr
    from recipes.tsmr.report import Arm, TSMRReport
