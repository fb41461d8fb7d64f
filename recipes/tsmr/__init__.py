"""Train an expanded student with a teacher and fold it back: a deployed face net with better weights.

``improve(student, teacher, data, output)`` makes a better file of a file. ``apply_tsmr(model, teacher, data, val,
config)`` is the recipe within, from module to module: distillation of a teacher's embeddings
into an expanded student, then adversarial refinement. ``TSMRConfig`` is everything that can be chosen about
it, with a ``Stage`` for each stretch of training; ``TSMRResult`` and ``TSMRReport`` are what it gives, and
``write_report`` makes a page of it. ``compare`` trains the controls that a gain has to be held against.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparam_kit import lazily

if TYPE_CHECKING:
    from recipes.tsmr.ablation import compare as compare
    from recipes.tsmr.config import TSMRConfig as TSMRConfig
    from recipes.tsmr.improved import Improved as Improved
    from recipes.tsmr.improvement import improve as improve
    from recipes.tsmr.objective.loss import Batch as Batch
    from recipes.tsmr.objective.loss import Loss as Loss
    from recipes.tsmr.objective.loss import Start as Start
    from recipes.tsmr.parts import Ablation as Ablation
    from recipes.tsmr.parts import Adversary as Adversary
    from recipes.tsmr.parts import Attack as Attack
    from recipes.tsmr.parts import Augment as Augment
    from recipes.tsmr.parts import Margin as Margin
    from recipes.tsmr.recipe import apply_tsmr as apply_tsmr
    from recipes.tsmr.rendering.page import write_report as write_report
    from recipes.tsmr.results import Arm as Arm
    from recipes.tsmr.results import EpochReport as EpochReport
    from recipes.tsmr.results import StepReport as StepReport
    from recipes.tsmr.results import TSMRReport as TSMRReport
    from recipes.tsmr.results import TSMRResult as TSMRResult
    from recipes.tsmr.run import Run as Run
    from recipes.tsmr.stages import Stage as Stage
    from recipes.tsmr.told import read_run as read_run
    from recipes.tsmr.training.callbacks import Callback as Callback
    from recipes.tsmr.training.logs import Logger as Logger
else:
    __getattr__, __dir__, __all__ = lazily(__name__)
