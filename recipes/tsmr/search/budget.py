"""What there is time for: how many images nets are asked about, and how many steps are taken."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from recipes.faces import Embedder
from recipes.tsmr.choices import TaskName
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.targets.examples import identity_labels
from recipes.tsmr.targets.showing import Showing
from recipes.tsmr.targets.views import Part, Views

USUAL = 60.0
"""Minutes of a run of embeddings that nothing else is said of."""

MOST_PASSES = 20
"""Over the images, at most: a set that is shown more often teaches itself. Images that are moved each time, twice."""

_ASKED = 0.35  # of the time, at most, in which nets are asked about the images
_TIMED = 32  # images on which a net is timed
_JUDGED = 0.15  # of the training, at most, in which epochs are judged
_MOST_EPOCHS = 10  # that are judged


@dataclass(frozen=True)
class Budget:
    """The time of a run.

    Attributes:
        seconds: from its beginning to its end.
        begun: when it began, by ``time.monotonic()``.
    """

    seconds: float
    begun: float

    @classmethod
    def of(cls, asked: TSMRConfig, task: TaskName, begun: float) -> Budget | None:
        """Return that of a run of ``task`` by the choices ``asked`` for; None where its length is chosen."""
        if asked.budget is not None:
            return cls(60 * asked.budget, begun)
        return cls(60 * USUAL, begun) if task == "embeddings" and not asked.timed else None

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.begun + self.seconds - time.monotonic()


def ending(config: TSMRConfig, judging: float) -> float:
    """Return the seconds in which the shares of the way and the last model are judged, one in ``judging``."""
    return (len(config.shares) + 1) * judging


def affordable(
    views: Views, nets: Sequence[Embedder], config: TSMRConfig, seconds: float, processes: Processes
) -> int:
    """Return about how many images all ``nets`` can be asked in a third of ``seconds``; at most those there are."""
    columns = len(Showing.of(views, config).columns)
    if not columns:
        return len(views)
    few = views.first(_TIMED)

    def room() -> int:
        taken = 0.0
        for net in nets:
            net(few[:1])  # the first call prepares
            start = time.perf_counter()
            net(few)
            taken += time.perf_counter() - start
        return int(_ASKED * max(seconds, 0.0) * processes.count / (columns * taken / len(few)))

    return min(max(processes.told(room), config.images_of_step(processes.count)), len(views))


def drawn(views: Views, images: int, config: TSMRConfig) -> Views:
    """Return so many of the images, drawn at random; all as they are, where that is how many there are."""
    if images == len(views):
        return views
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(views))[:images])
    labels = identity_labels(views.images)
    return Views(Part(views.images, chosen, labels, alone=True, classes=config.task == "logits"))


def lasting(
    config: TSMRConfig, images: int, rate: float, seconds: float, judging: float, processes: Processes
) -> TSMRConfig:
    """Return ``config`` with epochs, and steps in each, for which there is time.

    Args:
        config: has one stage, or several, of which all but the first keep their epochs.
        images: to train on.
        rate: images a second, in all processes together.
        seconds: that there are.
        judging: seconds that the judges take for one model.
        processes: those that train together.
    """
    size = config.images_of_step(processes.count)
    one_pass = max(images // size, 1)
    seconds = max(seconds, 0.0)
    first, *others = config.plan.stages
    kept = sum(stage.epochs for stage in others)

    def length() -> tuple[int, int]:
        judged = _MOST_EPOCHS
        if judging * _MOST_EPOCHS > _JUDGED * seconds:
            judged = max(int(_JUDGED * seconds / judging), kept)
        steps = int((seconds - judged * judging) * rate / size)
        passes = MOST_PASSES * (2 if config.augment.affine else 1)
        steps = min(max(steps, 1), passes * one_pass)
        epochs = max(kept + 1, min(judged, steps))
        return epochs, max(steps // epochs, 1)

    epochs, steps = processes.told(length)
    return replace(config, stages=(replace(first, epochs=epochs - kept), *others), epochs=None, steps=steps)
