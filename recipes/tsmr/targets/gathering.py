"""What nets say of the images: stored beforehand in tables, or asked for as images are shown."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from recipes.progress import Progress
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.targets.examples import Examples
from recipes.tsmr.targets.identity import data_identity
from recipes.tsmr.targets.passes import Net, embedding_tables
from recipes.tsmr.targets.showing import Showing
from recipes.tsmr.targets.streams import Stream, Streaming
from recipes.tsmr.targets.targets import LiveTargets, PartTable, StoredTargets, Table
from recipes.tsmr.targets.task import Task
from recipes.tsmr.targets.views import Part, Views


def gather_examples(
    views: Views,
    teachers: Sequence[Net],
    old: Net | None,
    labels: npt.NDArray[np.int64] | None,
    data: str,
    folder: Path,
    config: TSMRConfig,
    device: torch.device,
    progress: Progress,
    processes: Processes,
) -> Examples:
    """Return the images with ``labels``, what the teachers say of them and, where a loss needs it, the old model.

    Args:
        views: the images, whose identity is ``data``.
        teachers: one at least.
        old: the model as it was deployed; None where no loss needs it.
        labels: identity of each image, or None.
        folder: into which tables are computed where they are not there.
        config: the choices of the run.
        device: on which teachers run that are asked live.
        progress: is told how far the tables are.
        processes: those that share the passes.

    Raises:
        InputError: as ``embedding_tables``.
    """
    kind = Task(config.task)
    showing = (Streaming if isinstance(views.images, Stream) else Showing).of(views, config)
    combine = config.combine if kind.unit else "average"
    nets = [*teachers, *([] if old is None else [old])]
    if config.views == "live":
        live = LiveTargets([net.embed for net in teachers], combine, views, device, kind=kind)
        _say_cost(live, showing, config, progress)
        was = None if old is None else LiveTargets([old.embed], "concat", views, device, old.who, kind)
        return Examples(showing, live, labels, was)
    tables = _tables(showing, nets, data, folder, config, progress, processes)
    shapes = [tuple(net.embed(views.first(1)).shape[1:]) if kind.maps else () for net in nets]
    targets = StoredTargets(tables[: len(teachers)], combine, showing.person, shapes[0])
    kept = None
    if old is not None:
        kept = StoredTargets(tables[len(teachers) :], "concat", showing.person, shapes[-1])
    return Examples(showing, targets, labels, kept)


def _tables(
    showing: Showing,
    nets: Sequence[Net],
    data: str,
    folder: Path,
    config: TSMRConfig,
    progress: Progress,
    processes: Processes,
) -> list[Table]:
    """Return a table of each net. Those of a part of some images, unchanged, are rows of the tables of all of them, so
    that a run on the part and one on the whole compute them once.
    """
    images = showing.views.images
    part = images if isinstance(images, Part) and showing.taught == "original" else None
    part = None if part is None or part.alone else part
    if part is not None:
        showing = replace(showing, views=Views(part.images))
        everyone = part.images
        data = processes.told(
            lambda: data_identity(everyone, folder, workers=config.workers, progress=progress)
        )
    tables = embedding_tables(
        nets, showing, data, folder, workers=config.workers, progress=progress, processes=processes
    )
    return [table if part is None else PartTable(table, part.chosen) for table in tables]


def _say_cost(live: LiveTargets, showing: Showing, config: TSMRConfig, progress: Progress) -> None:
    """Say what it costs to ask the teachers in every step, as measured on one batch."""
    count = min(config.plan.batch_size, len(showing))
    index = np.arange(count)
    start = time.perf_counter()
    live.originals(index)
    each = (time.perf_counter() - start) / count
    whole = timedelta(seconds=round(each * len(showing) * config.total_epochs))
    progress.say(
        f"views='live': the teacher sees what the student sees, {1000 * each:.1f} ms an image, "
        f"{whole} over {config.total_epochs} epochs"
    )
